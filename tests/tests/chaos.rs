//! Whoever is killed or stopped at any moment: nobody else hangs, nobody is told a lie, nothing is left.
//!
//! `vgem_tests::chaos` says who plays, and its `judge` what is promised to whom within which time.
//!
//! | variable | what |
//! |---|---|
//! | `VGEM_CHAOS_SEED` | who is struck, how, when; printed when it is not given |
//! | `VGEM_CHAOS_ROUNDS` | how many rounds that count; 2 000 unless said otherwise |

#![forbid(unsafe_code)]

use std::time::Instant;

use vgem_tests::chance;
use vgem_tests::chaos::account::Account;
use vgem_tests::chaos::arena::{Arena, blow_of};

/// Rounds that CI plays.
const ROUNDS: u64 = 2_000;
/// So many rounds, and everybody leaves, and what is left is looked at.
const AUDIT: u64 = 100;
/// Of so many rounds one may be played again because others had the cores.
const AGAIN: u64 = 4;

/// So many rounds that count.
fn play(seed: u64, rounds: u64) -> Account {
    let mut arena = Arena::new();
    let mut account = Account::default();
    for _warm_up in 0..3 {
        assert_eq!(arena.round(None).wrong, Vec::<String>::new());
    }
    assert_eq!(arena.audit(), Vec::<String>::new(), "at the start");
    for number in 0..rounds {
        let blow = blow_of(seed, number);
        loop {
            let round = arena.round(Some(blow));
            assert!(
                round.wrong.is_empty(),
                "round {number} of VGEM_CHAOS_SEED={seed}, {}, {:?}:\n{}\n{:#?}",
                blow.name(),
                round.case,
                round.wrong.join("\n"),
                round.records
            );
            if account.add(&round) {
                break;
            }
            let again = account.again();
            assert!(
                again * AGAIN <= rounds.max(10 * AGAIN),
                "others had the cores in {again} of {} rounds: nothing can be said of time on this machine now",
                number + again
            );
        }
        if (number + 1) % AUDIT == 0 || number + 1 == rounds {
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
    let account = play(seed, rounds);
    eprintln!("{}{rounds} rounds in {:?}", account.table(), begun.elapsed());
    account.assert_it_counts();
}
