//! Text from peers, made harmless before it reaches a log, a table or another peer.
//!
//! Control characters, line breaks and everything else that could act on a terminal is written `\xNN`; what is
//! too long is cut at a whole character. The result is an allegation all the same.

use std::fmt::Write as _;

/// `bytes` as harmless text of at most `limit` bytes.
pub(crate) fn harmless(bytes: &[u8], limit: usize) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes).chars() {
        let mut piece = String::new();
        if acts(character) {
            write!(piece, "\\x{:02x}", u32::from(character)).expect("writing to a String cannot fail");
        } else {
            piece.push(character);
        }
        if text.len() + piece.len() > limit {
            break;
        }
        text.push_str(&piece);
    }
    text
}

/// Whether a character does something to a terminal or hides something from a reader.
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(harmless(b"a\n\x1b[31m", 64), "a\\x0a\\x1b[31m");
    }

    #[test]
    fn direction_marks_are_spelled_out() {
        assert_eq!(harmless("a\u{202e}b".as_bytes(), 64), "a\\x202eb");
    }

    #[test]
    fn long_text_is_cut_at_a_whole_character() {
        assert_eq!(harmless("äöü".as_bytes(), 5), "äö");
    }

    #[test]
    fn bytes_that_are_no_text_become_text() {
        assert_eq!(harmless(&[0xff, b'a'], 64), "\u{fffd}a");
    }
}
