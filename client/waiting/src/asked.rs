//! What the question is about, as it is written on a command line.

/// A point, all of a timeline, or a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
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
///
/// # Errors
/// How what it seems to be is written.
pub fn asked(text: &str) -> Result<Asked, String> {
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

/// Reads `cause:3.7`, `3.7`, or its number.
///
/// # Errors
/// How one is written.
pub fn cause(text: &str) -> Result<vgem::CauseId, String> {
    let bare = text.strip_prefix("cause:").unwrap_or(text);
    let parsed = match bare.split_once('.') {
        Some((issuer, counter)) => issuer.parse::<u32>().ok().zip(counter.parse::<u32>().ok()),
        None => return bare.parse().map(vgem::CauseId).map_err(|_| malformed_cause()),
    };
    let (issuer, counter) = parsed.ok_or_else(malformed_cause)?;
    Ok(vgem::CauseId(u64::from(issuer) << 32 | u64::from(counter)))
}

fn malformed_cause() -> String {
    "a cause is written as cause:3.7, or 3.7, or one number".to_owned()
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

    #[test]
    fn a_cause_is_read_as_errors_print_it() {
        let wanted = Ok(vgem::CauseId(0x0000_0003_0000_0007));
        assert_eq!(
            (cause("cause:3.7"), cause("3.7"), cause("12884901895")),
            (wanted.clone(), wanted.clone(), wanted)
        );
        assert!(cause("3.x").is_err() && cause("").is_err());
    }
}
