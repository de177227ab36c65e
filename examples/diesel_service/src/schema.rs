//! The tables, as the database and as diesel has them.

#![allow(missing_docs)] // diesel's macro has none.

/// The tables of the service.
pub const TABLES: &str = "
    CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE transfer (
        number bigint PRIMARY KEY,
        payer bigint NOT NULL REFERENCES account,
        payee bigint NOT NULL REFERENCES account,
        amount bigint NOT NULL
    );";

diesel::table! {
    account (id) {
        id -> BigInt,
        balance -> BigInt,
    }
}

diesel::table! {
    transfer (number) {
        number -> BigInt,
        payer -> BigInt,
        payee -> BigInt,
        amount -> BigInt,
    }
}
