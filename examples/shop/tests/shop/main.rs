//! The shop: what it serves, its page in a real browser, and the program with its balance sheet.
#![cfg(target_os = "linux")]

mod browser;
#[allow(unexpected_cfgs)] // The module has servers for more features.
#[path = "../../../../tests/servers/mod.rs"]
mod servers;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use browser::Browser;
use instruments::ask;
use rusqlite::Connection;
use servers::free_port;
use shop::{Database, serve};
use tempfile::TempDir;

/// A shop that is open, and its database.
struct Shop {
    address: SocketAddr,
    folder: TempDir,
}

impl Shop {
    fn open(shelf: &[(&str, i64)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database =
            Database::open(&folder.path().join("shop.db"), |_, builder| builder.build()).unwrap();
        for (name, stock) in shelf {
            database.stock(name, *stock).unwrap();
        }
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        serve(database, address).unwrap();
        Self { address, folder }
    }

    fn buy(&self, number: i64, product: i64) -> u16 {
        let form = format!("number={number}&product={product}");
        ask(self.address, "POST", "/buy", &form).unwrap().0
    }

    /// The purchases in the file, read without the pools.
    fn purchases(&self) -> i64 {
        let database = Connection::open(self.file()).unwrap();
        database.query_row("SELECT count(*) FROM purchase", (), |row| row.get(0)).unwrap()
    }

    fn file(&self) -> impl AsRef<Path> + use<> {
        self.folder.path().join("shop.db")
    }
}

#[test]
fn a_form_that_is_sent_twice_buys_once() {
    let shop = Shop::open(&[("A hammer", 5)]);
    assert_eq!([shop.buy(7, 1), shop.buy(7, 1)], [303, 303]);
    assert_eq!(shop.purchases(), 1);
    assert_eq!(ask(shop.address, "GET", "/stock", "").unwrap(), (200, "{\"1\":4}".to_owned()));
}

#[test]
fn what_is_sold_out_is_not_sold() {
    let shop = Shop::open(&[("The last saw", 1)]);
    assert_eq!([shop.buy(1, 1), shop.buy(2, 1)], [303, 409]);
    assert_eq!(shop.purchases(), 1);
}

#[test]
fn what_is_no_form_is_refused() {
    let shop = Shop::open(&[]);
    for form in ["", "number=1", "number=x&product=1", "\u{fffd}"] {
        assert_eq!(ask(shop.address, "POST", "/buy", form).unwrap().0, 400, "{form}");
    }
    assert_eq!(ask(shop.address, "GET", "/elsewhere", "").unwrap().0, 404);
}

#[test]
fn a_visitor_with_a_browser_buys_by_a_click_and_sees_what_others_buy() {
    let names = ["Nails & screws", "A <b>bold</b> hammer", "\"The\" saw"];
    let shop = Shop::open(&names.map(|name| (name, 2)));
    let Some(mut browser) = Browser::start() else { return };
    browser.open(&format!("http://{}/", shop.address));

    browser.wait_for("document.querySelectorAll('tr').length === 3");
    let shown =
        browser.value("[...document.querySelectorAll('td:first-child')].map(td => td.textContent)");
    assert_eq!(shown, serde_json::json!(names), "names are text, whatever is in them");

    // A click brings the visitor back to the page, which has one less.
    let stock = |id: u32| {
        format!("Number(document.querySelector('[data-product=\"{id}\"] .stock').textContent)")
    };
    browser.click("[data-product='2'] button");
    browser.wait_for(&format!("{} === 1", stock(2)));
    assert_eq!(shop.purchases(), 1);
    assert_eq!(browser.value(&stock(1)), 2);

    // Somebody else buys the rest: the page shows it, and is not loaded again.
    browser.value("window.mark = 'the same page'");
    assert_eq!(shop.buy(1, 2), 303);
    browser.wait_for(&format!("{} === 0", stock(2)));
    browser.wait_for("document.querySelector('[data-product=\"2\"] button').disabled");
    assert_eq!(browser.value("window.mark"), "the same page");

    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn the_program_adds_up() {
    let output = Command::new(env!("CARGO_BIN_EXE_shop")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let blamed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{blamed}");
    assert!(told.contains("Everything adds up."), "{told}");
    println!("{told}");
}
