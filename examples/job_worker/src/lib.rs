//! A worker: jobs wait in a list of Redis, one thread takes them, and several do them, each with a
//! connection for as long as the job lasts.
//!
//! | key | holds |
//! | --- | --- |
//! | `jobs` | the jobs that wait |
//! | `taken` | the jobs that somebody is at: what is left here when all have stopped was lost |
//! | `done` | the numbers of the jobs that were done |
//! | `dead` | the jobs that were cut |
//! | `account` | what the jobs have come to |

mod job;
mod worker;

pub use job::{Job, Task};
pub use worker::{
    ClientId, Failure, MAX_OPEN, Queue, QueueDialer, Stopped, Tally, Worker, put_back, queue,
};
