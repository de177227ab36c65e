//! A program of Rocket's: its pools are r2d2's, and no code outside can change that.

use std::convert::Infallible;

use diesel::prelude::*;
use rocket::figment::Figment;
use rocket::figment::util::map;
use rocket::local::blocking::Client;
use rocket::{Build, Rocket, get, post, routes};
use rocket_sync_db_pools::{PoolResult, Poolable, database};
use rusqlite as _; // Linked for the SQLite that comes with it.

diesel::table! {
    note (id) {
        id -> Integer,
        text -> Text,
    }
}

#[database("notes")]
struct Notes(SqliteConnection);

#[post("/", data = "<text>")]
async fn add(notes: Notes, text: String) {
    let insert = diesel::insert_into(note::table).values(note::text.eq(text));
    notes.run(move |connection| insert.execute(connection)).await.unwrap();
}

#[get("/")]
async fn list(notes: Notes) -> String {
    let texts = note::table.select(note::text).order(note::id);
    let texts: Vec<String> = notes.run(move |connection| texts.load(connection)).await.unwrap();
    texts.join(", ")
}

fn configured(databases: &[(&str, &str)]) -> Figment {
    databases.iter().fold(Figment::from(rocket::Config::debug_default()), |config, (name, url)| {
        config.merge(("databases", map![*name => map!["url" => *url]]))
    })
}

#[test]
fn an_app_serves_its_notes_from_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("notes.db").display().to_string();
    let mut own = SqliteConnection::establish(&url).unwrap();
    diesel::sql_query("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        .execute(&mut own)
        .unwrap();

    let rocket = rocket::custom(configured(&[("notes", &url)]))
        .attach(Notes::fairing())
        .mount("/", routes![add, list]);
    let client = Client::tracked(rocket).unwrap();
    for text in ["milk", "bread"] {
        assert_eq!(client.post("/").body(text).dispatch().status().code, 200);
    }
    assert_eq!(client.get("/").dispatch().into_string().unwrap(), "milk, bread");
}

/// As Rocket's own test of it.
#[test]
fn an_app_outlives_its_runtime() {
    let _rocket = rocket::async_test(async {
        let config = configured(&[("notes", ":memory:")]);
        let rocket = rocket::custom(config).attach(Notes::fairing()).ignite().await.unwrap();
        rocket.shutdown().notify();
        rocket.launch().await.unwrap()
    });
}

/// A manager whose drop must not happen where tasks run.
struct ContainsRuntime {
    _runtime: rocket::tokio::runtime::Runtime,
}

struct Nothing;

impl r2d2::ManageConnection for ContainsRuntime {
    type Connection = Nothing;
    type Error = Infallible;

    fn connect(&self) -> Result<Nothing, Infallible> {
        Ok(Nothing)
    }

    fn is_valid(&self, _: &mut Nothing) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Nothing) -> bool {
        false
    }
}

impl Poolable for Nothing {
    type Manager = ContainsRuntime;
    type Error = ();

    fn pool(_: &str, _: &Rocket<Build>) -> PoolResult<Self> {
        let manager = ContainsRuntime { _runtime: rocket::tokio::runtime::Runtime::new().unwrap() };
        Ok(r2d2::Pool::builder().build(manager)?)
    }
}

#[allow(dead_code)] // Nothing is asked of it.
#[database("nothing")]
struct NothingDb(Nothing);

/// As Rocket's own test of it.
#[test]
fn a_manager_is_not_dropped_where_tasks_run() {
    rocket::async_test(async {
        let config = configured(&[("nothing", "")]);
        drop(rocket::custom(config).attach(NothingDb::fairing()).ignite().await.unwrap());
    });
}
