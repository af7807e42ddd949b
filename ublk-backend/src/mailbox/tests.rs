use super::*;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

fn is_awake(control: &ControlPlane) -> bool {
    let mut polled = [PollFd::new(control.inbox.wake.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).unwrap() == 1
}

fn letter(n: u32) -> ToData {
    ToData::Status { ticket: Ticket(n) }
}

#[test]
fn one_call_wakes_for_all_letters_and_the_next_one_wakes_again() {
    let (data, control, _from_data) = mailbox().unwrap();
    let mut mail = Vec::new();
    for round in 0..3 {
        assert!(!is_awake(&control), "round {round}: nothing was said");
        (0..5).for_each(|n| data.send(letter(n)));
        assert!(is_awake(&control));
        control.receive(&mut mail);
        assert_eq!(mail.drain(..).count(), 5);
    }
}

#[test]
fn no_letter_stays_unnoticed() {
    let (data, control, _from_data) = mailbox().unwrap();
    const EACH: u32 = 20_000;
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let data = data.clone();
            std::thread::spawn(move || (0..EACH).for_each(|n| data.send(letter(n))))
        })
        .collect();
    let (mut mail, mut taken) = (Vec::new(), 0);
    let until = Instant::now() + Duration::from_secs(30);
    while taken < 3 * EACH as usize {
        assert!(Instant::now() < until, "{taken} letters came");
        if is_awake(&control) {
            control.receive(&mut mail);
            taken += mail.drain(..).count();
        }
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}
