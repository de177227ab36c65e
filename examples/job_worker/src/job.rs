//! A job: what it says in the queue, and what it does.

use redis::{Commands, Connection, RedisResult};

/// A job, as it lies in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Nobody else has it.
    pub number: u64,
    /// How long it may take from when it was taken, in milliseconds.
    pub limit: u64,
    /// The work to be done.
    pub task: Task,
}

/// The work of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Credits an account.
    Credit {
        /// The account that is worked on.
        account: u64,
        /// How much.
        amount: i64,
    },
    /// Waits for a partner who never comes.
    Wait,
}

impl Job {
    /// The job as text.
    pub fn to_text(self) -> String {
        let Self { number, limit, task } = self;
        match task {
            Task::Credit { account, amount } => {
                format!("{number} {limit} credit {account} {amount}")
            }
            Task::Wait => format!("{number} {limit} wait"),
        }
    }

    /// The job that a text says, if it says one.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let number = words.next()?.parse().ok()?;
        let limit = words.next()?.parse().ok()?;
        let task = match words.next()? {
            "credit" => Task::Credit {
                account: words.next()?.parse().ok()?,
                amount: words.next()?.parse().ok()?,
            },
            "wait" => Task::Wait,
            _ => return None,
        };
        words.next().is_none().then_some(Self { number, limit, task })
    }

    /// Does the job, and strikes it off in the same transaction: it is done once or not at all.
    ///
    /// # Errors
    ///
    /// Those of the client. Then it may be done all the same, if the answer was lost.
    pub fn perform(self, connection: &mut Connection) -> RedisResult<()> {
        match self.task {
            Task::Credit { account, amount } => redis::pipe()
                .atomic()
                .hincr("account", account, amount)
                .sadd("done", self.number)
                .lrem("taken", 1, self.to_text())
                .exec(connection),
            Task::Wait => {
                let _: (String, String) =
                    connection.blpop(format!("partner {}", self.number), 0.0)?;
                redis::pipe()
                    .atomic()
                    .sadd("done", self.number)
                    .lrem("taken", 1, self.to_text())
                    .exec(connection)
            }
        }
    }

    /// Puts the job where somebody will look at it.
    ///
    /// # Errors
    ///
    /// Those of the client.
    pub fn bury(self, connection: &mut Connection) -> RedisResult<()> {
        redis::pipe()
            .atomic()
            .lrem("taken", 1, self.to_text())
            .rpush("dead", self.to_text())
            .exec(connection)
    }
}
