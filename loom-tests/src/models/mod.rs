//! The models, by what races in them.
//!
//! | exhibit | model |
//! | --- | --- |
//! | ACC-01, ACC-02 | `a_failed_dial_passes_its_slot_on_and_fails_its_own_caller_only` |
//! | ACC-03 | `a_panic_in_a_dial_loses_no_slot_and_strands_nobody` |
//! | ACC-05 | `a_thread_that_cannot_be_had_fails_a_dial_and_no_more` |
//! | ACC-05 | `a_close_without_a_thread_runs_where_it_is_ordered` |
//! | ACC-06 | `a_discard_serves_the_waiter_by_one_new_dial` |
//! | ACC-07 | `two_discards_free_two_slots` |
//! | ACC-08 | `of_two_deliveries_a_waiter_takes_one_and_the_other_rests` |
//! | ACC-09, ACC-12 | `a_dial_whose_caller_has_left_serves_the_next` |
//! | ACC-14 | `a_discard_a_flush_and_a_close_end_a_connection_once` |
//! | ACC-16, ACC-17 | `a_lowered_limit_is_kept_once_enough_has_come_back` |
//! | ACC-18 | `a_warm_up_and_a_caller_share_the_slots` |
//! | ACC-20 | `a_detached_connection_leaves_its_slot_to_the_waiter` |
//! | ACC-19, ACC-23 | `a_caller_whose_dial_is_taken_by_another_is_served_as_well` |
//! | WAK-01, WAK-14 | `a_caller_who_comes_during_a_return_is_served` |
//! | WAK-02 | `a_discard_serves_the_waiter_by_one_new_dial` |
//! | WAK-03 | `a_failed_dial_passes_its_slot_on_and_fails_its_own_caller_only` |
//! | WAK-05, CAN-01, CAN-07 | `a_cancelled_waiter_passes_the_connection_on` |
//! | WAK-06 | `a_deadline_racing_a_return_loses_no_connection` |
//! | WAK-07 | `a_spurious_wake_up_neither_fails_nor_serves_anybody` |
//! | CAN-12 | `the_failure_of_a_dial_whose_caller_has_left_is_nobodys` |
//! | CAN-13 | `a_refused_dial_fails_no_caller_whom_a_return_will_serve` |
//! | FAIR-05 | `whoever_only_looks_takes_nothing_from_the_waiter` |
//! | BIND-02 | `a_dial_that_loses_and_finds_no_place_to_rest_is_closed` |
//! | BIND-03, BIND-05 | `of_two_deliveries_a_waiter_takes_one_and_the_other_rests` |
//! | BIND-04 | `a_refused_dial_fails_no_caller_whom_a_return_will_serve` |
//! | BIND-08, LIFE-11 | `nothing_from_before_a_flush_is_lent_after_it` |
//! | LIFE-10 | `a_check_whose_caller_has_left_serves_the_next` |
//! | LIFE-03, LIFE-11 | `what_reaches_its_lifetime_is_lent_or_closed_and_never_both` |
//! | LIFE-10 | `what_has_rested_too_long_is_lent_or_closed_and_never_both` |
//! | LIFE-04 | `what_ends_in_use_is_closed_as_it_comes_back_and_serves_nobody` |
//! | ACC-18 | `a_refill_and_a_caller_share_the_slots` |
//! | LIFE-10, SHUT-10 | `a_refill_racing_a_close_leaves_nothing_open` |
//! | LIFE-14 | `a_check_in_the_background_and_a_caller_share_a_connection` |
//! | places: WAK-01 | `who_sweeps_the_places_strands_nobody` |
//! | places: WAK-01 | `who_may_be_passed_is_served_all_the_same` |
//! | quota: NO-LOST-SLOT | `a_slot_that_comes_straight_back_does_not_settle` |
//! | BOUNDED-BYPASS | `who_has_been_passed_is_served_once_the_first_has_woken` |
//! | places: ACC-14 | `a_change_of_settings_racing_a_return_loses_no_connection` |
//! | places: STAT-02 | `a_glance_at_the_numbers_misses_no_connection` |
//! | places: STAT-02 | `who_holds_the_lock_hides_no_idle_connection` |
//! | STAT-02 | `who_holds_the_lock_hides_nothing_that_was_counted_a_while_ago` |
//! | places: ACC-13 | `one_connection_at_rest_is_never_lent_to_two` |
//! | places: ACC-14 | `two_connections_put_down_in_one_place_both_come_to_rest` |
//! | places: SHUT-02 | `nothing_rests_in_a_closed_pool` |
//! | places: ACC-14 | `what_is_displaced_as_connections_are_laid_out_is_not_lost` |
//! | places: WAK-01 | `what_is_put_down_as_the_places_are_swept_stays_in_none_of_them` |
//! | SHUT-01 | `a_close_turns_every_waiter_away` |
//! | SHUT-02 | `a_return_racing_a_close_leaks_no_connection` |
//! | SHUT-03 | `a_close_during_a_dial_turns_the_caller_away_and_closes_what_is_dialed` |
//! | SHUT-03 | `a_close_during_a_warm_up_ends_it` |
//! | SHUT-15 | `a_close_ends_a_dial_that_says_how` |
//! | SHUT-04, SHUT-06 | `a_drain_returns_when_everything_has_ended` |
//! | SHUT-04, SHUT-06 | `a_drain_that_gives_up_says_what_is_out` |
//! | SHUT-07, SHUT-08 | `two_closes_are_one` |
//! | SHUT-09 | `the_last_handle_may_go_while_a_dial_runs` |
//! | SHUT-09 | `the_last_handle_may_go_on_a_thread_of_the_pools_own` |
//! | SHUT-12 | `what_a_predicate_retires_is_not_lent_after_it` |
//! | SHUT-12 | `what_a_predicate_retires_is_closed_when_it_comes_back` |
//! | ACC-14 | `two_predicates_and_a_caller_end_a_connection_once` |
//! | SHUT-12 | `a_dial_from_before_a_flush_is_not_lent_after_it` |
//! | suspend: WAK-01 | `nobody_is_lent_anything_while_the_pool_is_suspended` |
//! | suspend: WAK-01 | `who_waits_through_a_suspension_is_served` |
//! | suspend: WAK-06 | `a_deadline_racing_a_resume_loses_no_connection` |
//! | cancel: WAK-06 | `a_cancellation_racing_a_return_loses_no_connection` |
//! | cancel: CAN-01 | `a_cancellation_finds_everyone_who_waits` |
//! | cancel: WAK-05 | `who_stands_behind_a_cancelled_caller_is_served` |
//! | cancel: CAN-01 | `a_cancellation_racing_a_deadline_ends_the_wait_once` |
//! | keys: KEY-02 | `a_key_that_goes_strands_nobody_and_loses_nothing` |
//! | keys: KEY-02, KEY-04 | `a_key_that_goes_leaves_its_slot_to_another` |
//! | keys: KEY-04 | `a_return_racing_a_caller_of_another_key_makes_room` |
//! | keys: KEY-04 | `what_rests_unseen_is_lent_or_makes_room_for_another_key` |
//! | keys: ACC-01 | `a_failed_dial_leaves_its_slot_to_another_key` |
//! | keys: WAK-05 | `a_slot_passes_by_a_caller_who_has_given_up` |
//! | keys: WAK-05, CAN-01 | `a_slot_passes_by_a_caller_whose_wait_is_cancelled` |
//! | keys: ACC-16 | `a_raised_total_serves_who_lacks_a_slot` |
//! | keys: SHUT-01 | `a_close_racing_a_grant_leaves_nothing_open` |
//! | keys: BOUNDED-BYPASS | `a_busy_key_makes_room_for_who_has_waited_longer_and_loses_nothing` |
//! | keys: WAK-05 | `a_busy_key_makes_room_in_vain_and_strands_nobody` |
//! | keys: KEY-02 | `a_slot_granted_to_a_key_that_has_gone_is_the_next_ones` |
//! | keys: SHUT-01 | `a_key_that_comes_as_the_pool_is_closed_leaves_nothing_open` |
//! | keys: KEY-11 | `a_key_that_comes_during_a_change_of_settings_hears_of_it` |
//! | keys: BOUND | `of_two_returns_at_once_one_sees_that_too_much_rests` |
//! | quota: FLEET-01 | `a_caller_who_finds_no_slot_as_one_is_allowed_is_served` |
//! | quota: FLEET-01 | `a_keeper_that_waits_for_a_demand_hears_of_a_caller` |
//! | quota: FLEET-02 | `what_comes_back_as_its_slot_is_withdrawn_is_closed` |
//! | quota: FLEET-03 | `what_comes_back_as_its_lease_ends_is_lent_to_nobody` |
//! | quota: FLEET-03 | `what_is_handed_over_before_its_lease_ends_is_not_lent_after_it` |
//! | BOUNDED-BYPASS | `a_gate_that_is_open_for_a_time_is_passed_no_longer` |
//! | QUIET | `two_pools_are_served_by_one_thread` |
//! | QUIET | `jobs_of_two_threads_are_done_by_one_worker` |
//! | LIFE-12 | `an_alarm_and_a_job_at_once_are_both_seen_to_by_one_worker` |
//! | LIFE-12 | `an_alarm_is_seen_to_although_the_last_one_was_just_taken_back` |
//! | LIFE-12 | `a_task_that_waits_for_a_thread_has_the_housekeeper` |
//! | NO-LOST-SLOT | `a_task_whose_thread_ends_too_soon_is_not_lost` |
//! | LIFE-12 | `an_alarm_whose_thread_ends_too_soon_is_refused` |
//! | LOCK-01, STAT-02 | `a_dialer_may_use_the_pool_in_each_of_its_methods` |
//! | LOCK-04, LOCK-05 | `a_close_that_hangs_strands_nobody` |
//! | LOCK-05 | `who_closes_a_connection_before_it_sleeps_keeps_none_from_the_next` |
//! | LOCK-05 | `who_tells_an_observer_before_it_sleeps_again_keeps_none_from_the_next` |
//! | LOCK-04, LOCK-05 | `a_connection_being_reset_serves_the_waiter_afterwards` |

mod aging;
mod apart;
mod closing;
mod controlling;
mod dialing;
mod housekeeping;
mod resting;
mod returning;
mod sharing;
mod working;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use loom::thread::JoinHandle;

use crate::elsewhere;
use crate::runtime::sync;
use crate::server::assert_none_left;

/// A deadline that may pass at any moment, or not.
const SOON: Duration = Duration::from_secs(1);

/// Starts a thread. What loom does for it is compiled once for each type of outcome, and not for each
/// closure.
fn spawn<T: 'static>(body: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let body: Box<dyn FnOnce() -> T> = Box::new(body);
    loom::thread::spawn(body)
}

/// The same, with a handle of the pool.
fn spawn_with<P: Clone + 'static, T: 'static>(
    pool: &P,
    body: impl FnOnce(P) -> T + 'static,
) -> JoinHandle<T> {
    let pool = pool.clone();
    spawn(move || body(pool))
}

/// Runs `model` in all orders of its threads that differ, with at most 2 preemptions in each: enough for
/// every fault in the table of `README.md`. `LATEBIND_MODELS=deep` makes it 3, which takes several times
/// as long.
///
/// `LOOM_MAX_PREEMPTIONS` sets the bound of all models.
#[track_caller]
fn check(model: impl Fn() + Send + Sync + 'static) {
    let is_deep = std::env::var_os("LATEBIND_MODELS").is_some_and(|models| models == "deep");
    check_within(if is_deep { 3 } else { 2 }, model);
}

/// The same within a bound of its own: with two workers at once, a third preemption is worth a
/// hundred thousand runs.
#[track_caller]
fn check_within(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    explore(preemptions, Box::new(model));
}

/// Compiled once for all models, as is loom's search.
#[track_caller]
fn explore(preemptions: usize, model: Box<dyn Fn() + Send + Sync>) {
    if has_ended_elsewhere() {
        return;
    }
    let runs = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = builder.max_branches.max(10_000);
    builder.check({
        let runs = Arc::clone(&runs);
        move || {
            runs.fetch_add(1, Ordering::Relaxed);
            assert_none_left();
            sync::start();
            model();
        }
    });
    assert_none_left();
    println!("{} runs", runs.load(Ordering::Relaxed));
}

/// Runs the test at hand in a process of its own, and fails as it does. False in that process.
///
/// loom maps a stack for each thread of each run. Models that share a process wait for each other there:
/// two at a time take longer than one after the other.
#[track_caller]
fn has_ended_elsewhere() -> bool {
    thread_local! {
        /// The whole test has run, however many models it has.
        static HAS_ENDED: Cell<bool> = const { Cell::new(false) };
    }
    if elsewhere::is_here() {
        return false;
    }
    if !HAS_ENDED.replace(true) {
        let thread = thread::current();
        let run = elsewhere::process(thread.name().expect("a test names its thread")).output();
        let run = run.expect("this program can be started again");
        print!("{}", String::from_utf8_lossy(&run.stdout));
        elsewhere::assert_passed(&run);
    }
    true
}
