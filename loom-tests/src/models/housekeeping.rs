//! Workers by themselves, with the one of them that is the housekeeper.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use loom::thread::JoinHandle;

use super::{SOON, check_within, spawn};
use crate::runtime::sync::{self, Condvar, Mutex, now};
use crate::runtime::whole::housekeeper::Upkeep;
use crate::runtime::whole::workers::{Crew, Enlistment, Task};

/// Counts what has been done, and waits for it: what is lost is a deadlock.
struct Done {
    count: Mutex<u32>,
    changed: Condvar,
}

impl Done {
    fn new() -> Arc<Self> {
        Arc::new(Self { count: Mutex::new(0), changed: Condvar::default() })
    }

    fn add(&self) {
        *self.count.lock() += 1;
        self.changed.ring();
    }

    fn wait_for(&self, count: u32) {
        let mut done = self.count.lock();
        while *done < count {
            self.changed.wait(&mut done, None);
        }
        assert_eq!(*done, count, "each is done once");
    }
}

struct Work(Arc<Done>);

impl Task for Work {
    fn run(self: Box<Self>) {
        self.0.add();
    }

    fn give_up(self: Box<Self>, _: io::Error) {
        self.0.add();
    }
}

struct Aging(Arc<Done>);

impl Upkeep for Aging {
    fn upkeep(self: Arc<Self>) {
        self.0.add();
    }

    fn alarm_refused(&self) {
        self.0.add();
    }
}

/// So many threads can be started, and none ends by itself.
fn crew(threads: u32) -> (Arc<Crew>, Enlistment, Arc<Done>) {
    sync::limit_spawns(threads);
    sync::rest_for_ever();
    let crew = Arc::<Crew>::default();
    let enlistment = crew.enlist();
    (crew, enlistment, Done::new())
}

fn submit(crew: &Arc<Crew>, done: &Arc<Done>) {
    assert!(crew.submit(Work(Arc::clone(done))).is_ok(), "there is a worker");
}

/// Has another thread submit or bring a task.
fn beside(bring: fn(&Arc<Crew>, &Arc<Done>), crew: &Arc<Crew>, done: &Arc<Done>) -> JoinHandle<()> {
    let (crew, done) = (Arc::clone(crew), Arc::clone(done));
    spawn(move || bring(&crew, &done))
}

fn weak(aging: &Arc<Aging>) -> Weak<dyn Upkeep> {
    let weak: Weak<Aging> = Arc::downgrade(aging);
    weak
}

/// A worker goes to rest, or is about to end with the last pool, as tasks come.
#[test]
fn jobs_of_two_threads_are_done_by_one_worker() {
    check_within(3, || {
        let (crew, enlistment, done) = crew(1);
        submit(&crew, &done);
        let other = beside(submit, &crew, &done);
        submit(&crew, &done);
        other.join().unwrap();
        done.wait_for(3);
        enlistment.end();
    });
}

#[test]
fn an_alarm_and_a_job_at_once_are_both_seen_to_by_one_worker() {
    check_within(3, || {
        let (crew, enlistment, done) = crew(1);
        submit(&crew, &done);
        let aging = Arc::new(Aging(Arc::clone(&done)));
        let other = beside(submit, &crew, &done);
        assert!(crew.set_alarm(now() + SOON, weak(&aging)));
        other.join().unwrap();
        done.wait_for(3);
        enlistment.end();
    });
}

/// The housekeeper has been told to go as somebody counts on it.
#[test]
fn an_alarm_is_seen_to_although_the_last_one_was_just_taken_back() {
    check_within(3, || {
        let (crew, enlistment, done) = crew(2);
        let [first, second] = [(); 2].map(|()| Arc::new(Aging(Arc::clone(&done))));
        let far = crate::config::far_future(now() + 2 * SOON);
        assert!(crew.set_alarm(far, weak(&first)));
        let other = spawn({
            let (crew, first) = (Arc::clone(&crew), Arc::clone(&first));
            move || crew.remove_alarm(&weak(&first))
        });
        assert!(crew.set_alarm(now() + SOON, weak(&second)));
        other.join().unwrap();
        done.wait_for(1);
        enlistment.end();
    });
}

/// The only worker is the housekeeper, for an alarm that is far away; a task needs it.
#[test]
fn a_task_that_waits_for_a_thread_has_the_housekeeper() {
    check_within(3, || {
        let (crew, enlistment, done) = crew(1);
        let aging = Arc::new(Aging(Arc::clone(&done)));
        let far = crate::config::far_future(now() + Duration::from_secs(1));
        assert!(crew.set_alarm(far, weak(&aging)));
        submit(&crew, &done);
        done.wait_for(1);
        crew.remove_alarm(&weak(&aging));
        enlistment.end();
    });
}

/// A crew whose first thread ends before it has run the body, and which can start so many more.
fn crew_that_loses_one(threads: u32) -> (Arc<Crew>, Enlistment, Arc<Done>) {
    sync::limit_spawns(threads);
    sync::rest_for_ever();
    let is_first = Mutex::new(true);
    let start = move |name, body| {
        if std::mem::take(&mut *is_first.lock()) {
            spawn(move || drop::<sync::Body>(body));
            return Ok(());
        }
        sync::spawn(name, body)
    };
    let crew = Arc::new(Crew::new(Arc::new(start)));
    let enlistment = crew.enlist();
    (crew, enlistment, Done::new())
}

/// Brings a task, and counts it as done if there is no thread for it.
fn bring(crew: &Arc<Crew>, done: &Arc<Done>) {
    if crew.submit(Work(Arc::clone(done))).is_err() {
        done.add();
    }
}

/// NO-LOST-SLOT: the other task has a thread of its own, or none.
#[test]
fn a_task_whose_thread_ends_too_soon_is_not_lost() {
    for threads in [0, 1] {
        check_within(3, move || {
            let (crew, enlistment, done) = crew_that_loses_one(threads);
            let other = beside(bring, &crew, &done);
            bring(&crew, &done);
            other.join().unwrap();
            done.wait_for(2);
            enlistment.end();
        });
    }
}

/// LIFE-12: a pool hears that nobody keeps its alarm, once.
#[test]
fn an_alarm_whose_thread_ends_too_soon_is_refused() {
    check_within(3, || {
        let (crew, enlistment, done) = crew_that_loses_one(0);
        let aging = Arc::new(Aging(Arc::clone(&done)));
        let other = beside(bring, &crew, &done);
        if !crew.set_alarm(now() + SOON, weak(&aging)) {
            done.add();
        }
        other.join().unwrap();
        done.wait_for(2);
        enlistment.end();
    });
}
