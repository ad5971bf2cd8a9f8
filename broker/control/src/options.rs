//! The `a{sv}` at the end of every method: what a newer version may say, and this one must not pass over.
//!
//! An option that nobody knows is an error that names it: a typing mistake must not become a silent default.

use std::collections::HashMap;

use vgem::ErrorCode;
use zbus::{OwnedVariant, Variant};

use crate::error::{Error, Result};

/// Options of one call.
pub(crate) type Options = HashMap<String, OwnedVariant>;

/// Takes a text out.
pub(crate) fn take_text(options: &mut Options, key: &str) -> Result<Option<String>> {
    match options.remove(key).as_deref() {
        None => Ok(None),
        Some(Variant::Str(text)) => Ok(Some(text.to_string())),
        Some(other) => Err(wrong(key, "a string", other)),
    }
}

/// Takes a number out.
pub(crate) fn take_number(options: &mut Options, key: &str) -> Result<Option<u64>> {
    match options.remove(key) {
        None => Ok(None),
        Some(value) => match crate::values::number(&value) {
            Some(Ok(number)) => Ok(Some(number)),
            _ => Err(wrong(key, "a number from 0 on", &value)),
        },
    }
}

/// Takes a yes or no out; no if it is not there.
pub(crate) fn take_flag(options: &mut Options, key: &str) -> Result<bool> {
    match options.remove(key).as_deref() {
        None => Ok(false),
        Some(Variant::Bool(is)) => Ok(*is),
        Some(other) => Err(wrong(key, "true or false", other)),
    }
}

/// Takes texts out; none if they are not there.
pub(crate) fn take_texts(options: &mut Options, key: &str) -> Result<Vec<String>> {
    let Some(value) = options.remove(key) else { return Ok(Vec::new()) };
    let Variant::Array(texts) = &*value else { return Err(wrong(key, "an array of strings", &value)) };
    let text = |one: &Variant<'_>| match one {
        Variant::Str(text) => Ok(text.to_string()),
        _ => Err(wrong(key, "an array of strings", &value)),
    };
    texts.iter().map(text).collect()
}

/// Takes numbers with names out; none if they are not there.
pub(crate) fn take_numbers(options: &mut Options, key: &str) -> Result<Vec<(String, u64)>> {
    let Some(value) = options.remove(key) else { return Ok(Vec::new()) };
    let bad = || wrong(key, "a dictionary of strings and numbers from 0 on", &value);
    let Variant::Dict(dict) = &*value else { return Err(bad()) };
    let one = |(name, number): (&Variant<'_>, &Variant<'_>)| match (name, crate::values::number(number)) {
        (Variant::Str(name), Some(Ok(number))) => Ok((name.to_string(), number)),
        _ => Err(bad()),
    };
    dict.iter().map(one).collect()
}

/// What is left is known to nobody.
pub(crate) fn no_more(options: &Options) -> Result<()> {
    let Some(key) = options.keys().min() else { return Ok(()) };
    Err(Error::new(ErrorCode::BadParameter, format!("option {key:?} is not known")))
}

fn wrong(key: &str, wanted: &str, got: &Variant<'_>) -> Error {
    let text = format!("option {key:?} is {wanted}, not of type {}", got.value_signature());
    Error::new(ErrorCode::BadParameter, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(key: &str, value: impl Into<Variant<'static>>) -> Options {
        let value = OwnedVariant::try_from(value.into()).expect("no fd");
        HashMap::from([(key.to_owned(), value)])
    }

    #[test]
    fn an_option_that_nobody_knows_is_named() {
        let refused = no_more(&options("colour", 3_u32)).expect_err("unknown");
        assert_eq!(refused.text(), "option \"colour\" is not known");
        assert_eq!(refused.code(), ErrorCode::BadParameter);
    }

    #[test]
    fn an_option_of_the_wrong_type_is_named_with_both_types() {
        let refused = take_text(&mut options("name", 3_u32), "name").expect_err("a number");
        assert_eq!(refused.text(), "option \"name\" is a string, not of type u");
    }

    #[test]
    fn an_option_is_taken_once() {
        let mut given = options("timeout_ms", 250_i32);
        assert_eq!(take_number(&mut given, "timeout_ms").expect("a number"), Some(250));
        assert!(no_more(&given).is_ok());
    }
}
