use super::{Blocks, Job, MetaJobs, Step, Then};
use crate::ids::Ticket;
use proptest::prelude::*;

fn transaction() -> Job {
    Job { transaction: true, super_block: false, then: vec![Then::LogCommitted], ..Job::super_block(None) }
}

fn then(number: u32) -> Then {
    Then::RoleStable(Ticket(number))
}

fn run_one(jobs: &mut MetaJobs) -> Option<Job> {
    jobs.start().then(|| jobs.running.take().expect("it was started").job)
}

#[test]
fn super_blocks_that_nothing_separates_are_one() {
    let mut jobs = MetaJobs::default();
    jobs.push(Job::super_block(Some(then(1))));
    jobs.push(Job::super_block(Some(then(2))));
    assert_eq!(run_one(&mut jobs), Some(Job { then: vec![then(1), then(2)], ..Job::super_block(None) }));
    assert_eq!(run_one(&mut jobs), None);
}

#[test]
fn a_running_super_block_takes_no_further_change() {
    let mut jobs = MetaJobs::default();
    jobs.push(Job::super_block(Some(then(1))));
    assert!(jobs.start());
    // What is being written may already be encoded.
    jobs.push(Job::super_block(Some(then(2))));
    assert_eq!(jobs.running.take().map(|r| r.job.then), Some(vec![then(1)]));
    assert_eq!(run_one(&mut jobs).map(|j| j.then), Some(vec![then(2)]));
}

#[test]
fn a_super_block_that_waits_goes_after_the_blocks_of_the_next_job() {
    let mut jobs = MetaJobs::default();
    jobs.push(Job::super_block(Some(then(1))));
    jobs.push(Job::everything(Some(then(2))));
    let both = run_one(&mut jobs).unwrap();
    assert!(both.flush_data && both.super_block);
    assert_eq!((both.blocks, both.then), (Blocks::Dirty, vec![then(1), then(2)]));
    assert_eq!(run_one(&mut jobs), None);
}

#[test]
fn a_job_that_is_running_stays_a_job_of_its_own() {
    let mut jobs = MetaJobs::default();
    jobs.push(Job::super_block(Some(then(1))));
    assert!(jobs.start());
    jobs.push(Job::everything(Some(then(2))));
    let first = jobs.running.take().map(|r| r.job).unwrap();
    assert_eq!((first.blocks, first.then), (Blocks::None, vec![then(1)]));
    let second = run_one(&mut jobs).unwrap();
    assert!(second.flush_data && second.super_block);
    assert_eq!((second.blocks, second.then), (Blocks::Dirty, vec![then(2)]));
}

#[test]
fn the_log_overtakes_what_waits_and_interrupts_nothing() {
    let mut jobs = MetaJobs::default();
    jobs.push(Job::everything(Some(then(1))));
    assert!(jobs.start());
    jobs.push(Job::everything(Some(then(2))));
    jobs.push_urgent(transaction());
    let running = jobs.running.take().unwrap();
    assert_eq!((running.step, running.job.then), (Step::Resize, vec![then(1)]));
    assert_eq!(run_one(&mut jobs), Some(transaction()));
    assert_eq!(run_one(&mut jobs).map(|j| j.then), Some(vec![then(2)]));
}

proptest! {
    /// Whatever waits is told exactly once, and jobs that are not urgent in their order.
    #[test]
    fn everybody_who_waits_is_told(steps in prop::collection::vec(0..5_u8, 1..100), abandon in any::<bool>()) {
        let mut jobs = MetaJobs::default();
        let (mut waiting, mut told, mut urgent) = (0, Vec::new(), 0);
        for step in steps {
            match step {
                0 => jobs.push(Job::super_block(Some(then(waiting)))),
                1 => jobs.push(Job::everything(Some(then(waiting)))),
                2 => jobs.push_urgent(transaction()),
                3 => {
                    jobs.start();
                }
                _ => told.extend(jobs.running.take().into_iter().flat_map(|r| r.job.then)),
            }
            waiting += u32::from(step < 2);
            urgent += usize::from(step == 2);
        }
        if abandon {
            told.extend(jobs.abandon());
            prop_assert!(!jobs.start());
        }
        while jobs.start() {
            told.extend(jobs.running.take().into_iter().flat_map(|r| r.job.then));
        }
        prop_assert_eq!(told.iter().filter(|t| **t == Then::LogCommitted).count(), urgent);
        told.retain(|t| *t != Then::LogCommitted);
        prop_assert_eq!(told, (0..waiting).map(then).collect::<Vec<_>>());
    }
}
