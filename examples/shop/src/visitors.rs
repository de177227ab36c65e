//! A crowd of visitors, and what all this comes to.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use instruments::balance::{Balance, grouped, line, millis};
use instruments::{Instruments, ask, crowd, total};
use rusqlite::Connection;
use shop::{Database, MAX_READERS, READERS, WRITER, serve};

/// The products for sale at first. The first is sold out soon; the names are not to be trusted.
pub(crate) const SHELF: [(&str, i64); 3] =
    [("Nails & screws", 30), ("A <b>bold</b> hammer", 1_000), ("\"The\" saw", 1_000_000)];

/// Visitors at once.
const VISITORS: usize = 16;

/// How long they come.
const OPEN_FOR: Duration = Duration::from_secs(3);

/// One of that many requests is a purchase, and one of that many purchases is sent twice.
const BUYS: i64 = 4;
const HASTE: i64 = 10;

/// Longer than any of it takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The outcomes that visitors have seen.
#[derive(Default)]
struct Tally {
    pages: u64,
    /// Forms that were not turned away, those sent twice counted twice.
    forms: u64,
    /// The product that was bought with each form.
    bought: BTreeMap<i64, i64>,
    sold_out: Vec<i64>,
    /// Forms and pages that were turned away because the shop was busy.
    busy: Vec<i64>,
    busy_pages: u64,
    /// Requests that were answered in another way, and how.
    faults: Vec<String>,
    longest: Duration,
    /// The most files open at once, as the kernel counts.
    files: u64,
}

/// Runs the crowd and the sheet.
pub(crate) fn balance() -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().canonicalize()?.join("shop.db"); // The kernel tells paths without links.
    let mut instruments = Instruments::install()?;
    let database = Database::open(&path, |name, builder| instruments.build(name, builder))?;
    for (name, stock) in SHELF {
        database.stock(name, stock)?;
    }
    let attached = instruments.start()?;
    let address = serve_somewhere(&database)?;
    println!("http://{address}/");
    println!("{VISITORS} visitors, one connection that writes and {MAX_READERS} that read.\n");

    let visitor = |number, over: &AtomicBool| {
        if number == VISITORS { watch_files(&path, over) } else { visit(address, number, over) }
    };
    let (tallies, watched) = crowd::during(VISITORS + 1, visitor, || attached.watch(OPEN_FOR));
    watched?;
    let told = attached.scrape()?;
    let closing = Instant::now();
    let drained = database.close(closing + PATIENCE);
    let closed_in = closing.elapsed();

    let mut all = Tally::default();
    for tally in tallies {
        all.pages += tally.pages;
        all.forms += tally.forms;
        all.bought.extend(tally.bought);
        all.sold_out.extend(tally.sold_out);
        all.busy.extend(tally.busy);
        all.busy_pages += tally.busy_pages;
        all.faults.extend(tally.faults);
        all.longest = all.longest.max(tally.longest);
        all.files = all.files.max(tally.files);
    }
    let mut balance = Balance::default();
    println!("\nBalance sheet");
    balance.head();
    compare(&mut balance, &Connection::open(&path)?, &all)?;
    let scraped = |pool| total(&told, "latebind_lent_total", pool) as u64;
    balance.compare("pages, and loans that read as scraped", scraped(READERS), all.pages);
    let before = 1 + SHELF.len() as u64; // The tables, and what was put on the shelf.
    balance.compare("forms, and loans that wrote as scraped", scraped(WRITER), before + all.forms);
    let connections = u64::from(1 + MAX_READERS);
    balance.limit("files open at once, by the kernel", all.files, connections);
    balance.expect(all.files > 0 || !cfg!(target_os = "linux"), "the kernel saw no file open");
    balance.compare("files open at the end", files_of(&path), 0);

    println!();
    line("sold out", &grouped(all.sold_out.len() as u64));
    line("turned away as busy", &grouped(all.busy.len() as u64 + all.busy_pages));
    line("slowest answer", &millis(all.longest));
    line("both pools drained in", &millis(closed_in));
    for (drained, stats) in drained.iter().zip(database.stats()) {
        balance.expect(drained.is_complete(), &format!("something is left open: {drained:?}"));
        balance.close_pool(&stats);
    }
    balance.threads();
    for fault in &all.faults {
        balance.expect(false, fault);
    }
    balance.expect(all.pages > 0 && !all.bought.is_empty(), "nobody came");
    Ok(balance.close())
}

/// Compares what SQLite has written down with what the visitors know.
fn compare(
    balance: &mut Balance,
    database: &Connection,
    all: &Tally,
) -> Result<(), Box<dyn Error>> {
    let count = |select: &str, of: i64| -> rusqlite::Result<u64> {
        Ok(database.query_row(select, [of], |row| row.get::<_, i64>(0))? as u64)
    };
    let purchases = count("SELECT count(*) FROM purchase WHERE ?1", 1)?;
    balance.compare("purchases", purchases, all.bought.len() as u64);
    for (id, (name, stock)) in (1..).zip(SHELF) {
        let left = count("SELECT stock FROM product WHERE id = ?1", id)?;
        let bought = all.bought.values().filter(|product| **product == id).count() as u64;
        balance.compare(&format!("sold: {name}"), stock as u64 - left, bought);
    }
    let mut sold_to_nobody = 0;
    let of_no_other_form = |number: &&i64| !all.bought.contains_key(number);
    for number in all.sold_out.iter().chain(&all.busy).filter(of_no_other_form) {
        sold_to_nobody += count("SELECT count(*) FROM purchase WHERE number = ?1", *number)?;
    }
    balance.compare("told that there is none, yet sold", sold_to_nobody, 0);
    Ok(())
}

/// Serves on a port that is free: the server does not say which the system has chosen.
fn serve_somewhere(database: &Database) -> io::Result<SocketAddr> {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    for port in first.. {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        match serve(database.clone(), address) {
            Ok(_) => return Ok(address),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

/// One visitor, who looks and buys.
fn visit(address: SocketAddr, visitor: usize, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let first = (visitor as i64 + 1) << 32;
    for turn in 0.. {
        if over.load(SeqCst) {
            break;
        }
        if turn % BUYS == 0 {
            let purchase = turn / BUYS;
            let product = purchase % SHELF.len() as i64 + 1;
            for _ in 0..if purchase % HASTE == 0 { 2 } else { 1 } {
                tally.buy(address, first + purchase, product);
            }
        } else {
            tally.look(address, if turn % 2 == 0 { "/stock" } else { "/" });
        }
    }
    tally
}

impl Tally {
    fn look(&mut self, address: SocketAddr, path: &str) {
        match self.ask(address, "GET", path, "") {
            Ok((200, _)) => self.pages += 1,
            Ok((503, _)) => self.busy_pages += 1,
            other => self.faults.push(format!("{path} was answered by {other:?}")),
        }
    }

    fn buy(&mut self, address: SocketAddr, number: i64, product: i64) {
        let form = format!("number={number}&product={product}");
        let answer = self.ask(address, "POST", "/buy", &form);
        self.forms += u64::from(!matches!(answer, Ok((503, _))));
        match answer {
            Ok((303, _)) => drop(self.bought.insert(number, product)),
            Ok((409, _)) => self.sold_out.push(number),
            Ok((503, _)) => self.busy.push(number),
            other => self.faults.push(format!("form {number} was answered by {other:?}")),
        }
    }

    fn ask(
        &mut self,
        address: SocketAddr,
        method: &str,
        path: &str,
        body: &str,
    ) -> io::Result<(u16, String)> {
        let start = Instant::now();
        let answer = ask(address, method, path, body);
        self.longest = self.longest.max(start.elapsed());
        answer
    }
}

/// Looks again and again at how often the database is open.
fn watch_files(path: &Path, over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !over.load(SeqCst) {
        tally.files = tally.files.max(files_of(path));
        thread::sleep(Duration::from_millis(5));
    }
    tally
}

/// How often this process has the file open. Known on Linux only.
fn files_of(path: &Path) -> u64 {
    let links = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    links.filter(|link| fs::read_link(link.path()).is_ok_and(|target| target == path)).count()
        as u64
}
