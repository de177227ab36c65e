//! `Statements`: statements of PostgreSQL that are prepared once for each connection.

use std::collections::HashMap;
use std::fmt;

use postgres::{Client, Error, Statement};

use crate::dialers::Stored;

/// How many statements are kept of one connection: as many as the drivers of PostgreSQL for Java keep.
const MOST: usize = 256;

/// The statements that a connection has prepared, by their text.
///
/// Kept beside each connection by [`WithStorage`](crate::dialers::WithStorage), so that a statement is
/// prepared once for each connection rather than once for each loan: that spares a round trip, and the
/// server the parsing. A connection keeps 256; the one unused for longest makes room, and the server is
/// told to deallocate it.
///
/// [`OnReturn::ResetSession`](crate::drivers::OnReturn::ResetSession) empties it at each return of a
/// connection that was used, as the session begins from scratch then. Behind PgBouncer it takes a
/// version that follows prepared statements (1.21). A program that
/// deallocates statements by text (`DEALLOCATE ALL`, `DISCARD ALL`) has to [`clear`](Self::clear) it.
///
/// # Examples
///
/// ```no_run
/// use latebind::Pool;
/// use latebind::dialers::WithStorage;
/// use latebind::drivers::{PostgresDialer, Statements};
/// use postgres::NoTls;
///
/// let dialer = PostgresDialer::new("host=db.example user=app".parse()?, NoTls);
/// let pool = Pool::new(WithStorage::<_, Statements>::new(dialer));
///
/// let mut client = pool.get()?;
/// let by_id = client.prepare_cached("SELECT name FROM account WHERE id = $1")?;
/// let row = client.query_one(&by_id, &[&7i32])?;
/// # drop(row);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Statements {
    by_text: HashMap<String, Prepared>,
    /// Calls so far, by which it is known what was used last.
    calls: u64,
}

struct Prepared {
    statement: Statement,
    used_at: u64,
}

impl Statements {
    /// The statement of that text, which `client` prepares unless it is here already.
    ///
    /// `client` must be the connection that this is kept beside: elsewhere the statement is not known.
    /// [`prepare_cached`](Stored::prepare_cached) sees to that; this is for a storage that has more in
    /// it than statements.
    ///
    /// # Errors
    ///
    /// As [`Client::prepare`]'s. Nothing is kept then.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use latebind::{Pool, dialers::WithStorage, drivers::{PostgresDialer, Statements}};
    /// #[derive(Default)]
    /// struct Own {
    ///     statements: Statements,
    ///     last_tenant: Option<String>,
    /// }
    ///
    /// # fn example(
    /// #     pool: &Pool<WithStorage<PostgresDialer<postgres::NoTls>, Own>>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut connection = pool.get()?;
    /// let (client, own) = connection.split();
    /// let count = own.statements.prepare(client, "SELECT count(*) FROM account")?;
    /// let row = client.query_one(&count, &[])?;
    /// # drop(row);
    /// # Ok(())
    /// # }
    /// ```
    pub fn prepare(&mut self, client: &mut Client, text: &str) -> Result<Statement, Error> {
        self.calls += 1;
        if let Some(prepared) = self.by_text.get_mut(text) {
            prepared.used_at = self.calls;
            return Ok(prepared.statement.clone());
        }
        let statement = client.prepare(text)?;
        if self.by_text.len() >= MOST {
            let oldest = self.by_text.iter().min_by_key(|(_, prepared)| prepared.used_at);
            if let Some(text) = oldest.map(|(text, _)| text.clone()) {
                self.by_text.remove(&text);
            }
        }
        let prepared = Prepared { statement: statement.clone(), used_at: self.calls };
        self.by_text.insert(text.to_owned(), prepared);
        Ok(statement)
    }

    /// Forgets the statement of that text, after an error that says that the server plans it no more
    /// ("cached plan must not change result type"). Returns whether it was here.
    pub fn remove(&mut self, text: &str) -> bool {
        self.by_text.remove(text).is_some()
    }

    /// Forgets all statements.
    pub fn clear(&mut self) {
        self.by_text.clear();
    }

    /// How many statements there are: 256 at most.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_text.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }
}

/// Without the statements' text, which may have a literal in it that is nobody's business.
impl fmt::Debug for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statements").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Stored<Client, Statements> {
    /// The statement of that text, which is prepared unless this connection has done so before.
    ///
    /// # Errors
    ///
    /// As [`Client::prepare`]'s.
    ///
    /// # Examples
    ///
    /// See [`Statements`].
    pub fn prepare_cached(&mut self, text: &str) -> Result<Statement, Error> {
        let (client, statements) = self.split();
        statements.prepare(client, text)
    }
}
