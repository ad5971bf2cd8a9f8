//! Whoever is killed or stopped at any moment: nobody else hangs, nobody is told a lie, nothing is left.
//!
//! `vgem_tests::chaos` says who plays, and its `judge` what is promised to whom within which time.
//!
//! | variable | what |
//! |---|---|
//! | `VGEM_CHAOS_SEED` | who is struck, how, when; printed when it is not given |
//! | `VGEM_CHAOS_ROUNDS` | how many rounds; 2 000 unless said otherwise |

#![forbid(unsafe_code)]

use std::time::Instant;

use vgem_tests::chance;
use vgem_tests::chaos::account::Account;
use vgem_tests::chaos::arena::{Arena, blow_of};

/// Rounds that CI plays.
const ROUNDS: u64 = 2_000;
/// Daemons at the same time: a round is mostly waiting.
const LANES: u64 = 2;
/// So many rounds, and everybody leaves, and what is left is looked at.
const AUDIT: u64 = 100;

/// One daemon and its rounds.
fn lane(seed: u64, lane: u64, rounds: u64) -> Account {
    let mut arena = Arena::new();
    let mut account = Account::default();
    for warm_up in 0..3 {
        let round = arena.round(warm_up, None);
        assert_eq!(round.wrong, Vec::<String>::new());
    }
    assert_eq!(arena.audit(), Vec::<String>::new(), "at the start");
    for played in 1..=rounds {
        let number = (played - 1) * LANES + lane;
        let blow = blow_of(seed, number);
        let round = arena.round(number + 3, Some(blow));
        assert!(
            round.wrong.is_empty(),
            "round {number} of VGEM_CHAOS_SEED={seed}, {}, {:?}:\n{}\n{:#?}",
            blow.name(),
            round.case,
            round.wrong.join("\n"),
            round.records
        );
        account.add(&round);
        if played % AUDIT == 0 || played == rounds {
            let more = arena.audit();
            assert!(more.is_empty(), "after round {number} of VGEM_CHAOS_SEED={seed}:\n{}", more.join("\n"));
        }
    }
    account
}

#[test]
fn whoever_is_struck_nobody_hangs_every_error_has_a_name_and_nothing_is_left() {
    let seed = chance::seed("VGEM_CHAOS_SEED");
    let rounds = chance::number("VGEM_CHAOS_ROUNDS").unwrap_or(ROUNDS);
    let begun = Instant::now();
    let mut account = Account::default();
    std::thread::scope(|scope| {
        let lanes: Vec<_> =
            (0..LANES).map(|at| scope.spawn(move || lane(seed, at, rounds / LANES))).collect();
        for lane in lanes {
            account.join(lane.join().expect("a lane ends well; what it says is above"));
        }
    });
    eprintln!("{}{rounds} rounds in {:?}", account.table(), begun.elapsed());
    account.assert_it_counts();
}
