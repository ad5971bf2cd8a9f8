//! What the question is about, as it is written on a command line.

/// A point, all of a timeline, or a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A point of a timeline; of a timeline alone, its newest point that has not ended.
    Point {
        /// The timeline, as the broker writes it.
        timeline: String,
        /// The point.
        point: Option<u64>,
    },
    /// A client's number.
    Client(u64),
    /// A client's name, or a timeline's, that with a point behind a colon.
    Name(String),
}

/// Reads `3.7:5`, `c3.7:5`, `timeline:3.7:5`, `timeline:3.7 point 5`, `3.7`, `4` or a name.
pub(crate) fn asked(text: &str) -> Result<Asked, String> {
    let (bare, must_be_point) = match text.strip_prefix("timeline:") {
        Some(bare) => (bare, true),
        None => (text, false),
    };
    if let Some(point) = point(bare) {
        return Ok(point);
    }
    if must_be_point {
        return Err("a point is written as 3.7:5, a timeline or a queue as 3.7".to_owned());
    }
    if let Ok(number) = text.strip_prefix("client:").unwrap_or(text).parse() {
        return Ok(Asked::Client(number));
    }
    if text.is_empty() {
        return Err("an empty name is nobody's".to_owned());
    }
    Ok(Asked::Name(text.to_owned()))
}

fn point(bare: &str) -> Option<Asked> {
    let split = bare.split_once(':').or_else(|| bare.split_once(" point "));
    let (key, point) = match split {
        Some((key, point)) => (key, Some(point.trim().parse().ok()?)),
        None => (bare, None),
    };
    let (index, generation) = key.split_once('.')?;
    // Timelines that clients signal are numbered apart.
    let (mark, index) = index.strip_prefix('c').map_or(("", index), |index| ("c", index));
    let (index, generation): (u32, u32) = (index.parse().ok()?, generation.parse().ok()?);
    Some(Asked::Point { timeline: format!("timeline:{mark}{index}.{generation}"), point })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_as_a_shell_likes_it_and_as_the_broker_says_it() {
        let wanted = Ok(Asked::Point { timeline: "timeline:3.7".into(), point: Some(5) });
        for text in ["3.7:5", "timeline:3.7:5", "timeline:3.7 point 5"] {
            assert_eq!(asked(text), wanted, "{text}");
        }
        let of_client = Asked::Point { timeline: "timeline:c3.7".into(), point: Some(5) };
        assert_eq!((asked("c3.7:5"), asked("timeline:c3.7:5")), (Ok(of_client.clone()), Ok(of_client)));
        assert_eq!(asked("3.7"), Ok(Asked::Point { timeline: "timeline:3.7".into(), point: None }));
    }

    #[test]
    fn anything_else_is_a_client_by_its_number_or_its_name() {
        assert_eq!((asked("4"), asked("client:4")), (Ok(Asked::Client(4)), Ok(Asked::Client(4))));
        assert_eq!(asked("encoder"), Ok(Asked::Name("encoder".into())));
        assert_eq!(asked("v1.x"), Ok(Asked::Name("v1.x".into())));
    }

    #[test]
    fn a_timeline_that_is_none_is_refused() {
        assert!(asked("timeline:x").is_err() && asked("timeline:3.7:").is_err() && asked("").is_err());
    }
}
