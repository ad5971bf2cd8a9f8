//! The one thing that people mean: by its id, by its name, or by the beginning of its id.
//!
//! Verbs that end or change something take whole ids and names only: what a beginning means changes with what is there.

use crate::exit::{NotThere, Usage};

/// Most of those that are meant which are named.
const NAMED: usize = 8;

/// What may be meant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Among<'a, T> {
    /// What one is called: object, queue.
    pub(crate) what: &'a str,
    /// How to see them all.
    pub(crate) listed_by: &'a str,
    pub(crate) id: fn(&T) -> String,
    pub(crate) name: fn(&T) -> &str,
}

impl<T> Among<'_, T> {
    /// The one of `all` that `asked` is the id or the name of, or the beginning of its id.
    pub(crate) fn pick(&self, all: Vec<T>, asked: &str) -> anyhow::Result<T> {
        self.pick_by(all, asked, true)
    }

    /// The one of `all` that `asked` is the id or the name of.
    pub(crate) fn pick_whole(&self, all: Vec<T>, asked: &str) -> anyhow::Result<T> {
        self.pick_by(all, asked, false)
    }

    fn pick_by(&self, all: Vec<T>, asked: &str, begins: bool) -> anyhow::Result<T> {
        let Self { what, listed_by, id, name } = self;
        // What kind it is may stand before an id, as the broker writes it.
        let bare = asked.split_once(':').filter(|(kind, _)| !kind.contains('.')).map_or(asked, |(_, id)| id);
        let ways: [&dyn Fn(&T) -> bool; 3] =
            [&|one| bare_id(&id(one)) == bare, &|one| name(one) == asked, &|one| {
                begins && bare_id(&id(one)).starts_with(bare)
            }];
        if asked.is_empty() {
            return Err(Usage(format!("an empty text is no {what}")).into());
        }
        for way in ways {
            let found: Vec<&T> = all.iter().filter(|one| way(one)).collect();
            match found.as_slice() {
                [] => {}
                [_] => {
                    let place = all.iter().position(way);
                    let mut all = all;
                    if let Some(place) = place {
                        return Ok(all.swap_remove(place));
                    }
                    break;
                }
                several => {
                    let ids: Vec<String> = several.iter().take(NAMED).map(|one| id(one)).collect();
                    let said = format!("{} {what}s are meant by {asked:?}: {}", several.len(), ids.join(" "));
                    return Err(Usage(said).into());
                }
            }
        }
        Err(NotThere(format!("no {what} {asked}; `vgemctl {listed_by}` names them")).into())
    }
}

/// An id without what kind it is.
fn bare_id(id: &str) -> &str {
    id.split_once(':').map_or(id, |(_, bare)| bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    type One = (&'static str, &'static str);

    const AMONG: Among<'_, One> =
        Among { what: "object", listed_by: "list objects", id: |one| one.0.to_owned(), name: |one| one.1 };

    fn picked(asked: &str) -> Result<&'static str, String> {
        let all = vec![
            ("object:1.4", "frame"),
            ("object:1.40", "12.9"),
            ("object:12.9", "twin"),
            ("object:3.1", "twin"),
        ];
        AMONG.pick(all, asked).map(|one| one.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_id_is_before_a_name_and_a_name_before_a_beginning() {
        assert_eq!((picked("1.4"), picked("object:1.4")), (Ok("object:1.4"), Ok("object:1.4")));
        assert_eq!((picked("12.9"), picked("frame")), (Ok("object:12.9"), Ok("object:1.4")));
        assert_eq!((picked("12"), picked("3")), (Ok("object:12.9"), Ok("object:3.1")));
    }

    #[test]
    fn what_means_several_or_nothing_says_so() {
        let several = picked("1.").expect_err("two begin so");
        assert_eq!(several, "2 objects are meant by \"1.\": object:1.4 object:1.40");
        assert!(picked("twin").is_err_and(|said| said.contains("object:3.1")));
        assert_eq!(picked("9"), Err("no object 9; `vgemctl list objects` names them".to_owned()));
        assert!(picked("").is_err());
    }

    #[test]
    fn who_is_to_be_ended_is_meant_by_all_of_its_id() {
        let all = || vec![("12", "encoder")];
        assert!(AMONG.pick_whole(all(), "1").is_err() && AMONG.pick_whole(all(), "12").is_ok());
    }
}
