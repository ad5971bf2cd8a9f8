//! Values of the bus as the library has them, and the other way.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

/// A dictionary as methods return it.
pub(crate) type Dict = HashMap<String, OwnedVariant>;

/// An integer of any type: as it is, or an error if it is negative. Nothing if it is no integer.
pub(crate) fn number(value: &Variant<'_>) -> Option<Result<u64, i64>> {
    let signed = |number: i64| Some(u64::try_from(number).map_err(|_| number));
    match value {
        Variant::U8(number) => Some(Ok((*number).into())),
        Variant::U16(number) => Some(Ok((*number).into())),
        Variant::U32(number) => Some(Ok((*number).into())),
        Variant::U64(number) => Some(Ok(*number)),
        Variant::Bool(is) => Some(Ok((*is).into())),
        Variant::I16(number) => signed((*number).into()),
        Variant::I32(number) => signed((*number).into()),
        Variant::I64(number) => signed(*number),
        _ => None,
    }
}

/// The bytes of an `ay`.
pub(crate) fn bytes(value: &Variant<'_>) -> Option<Vec<u8>> {
    let Variant::Array(array) = value else { return None };
    array
        .iter()
        .map(|one| match one {
            Variant::U8(byte) => Some(*byte),
            _ => None,
        })
        .collect()
}

/// One entry of a dictionary. Nothing here holds an fd, so it can always be owned.
pub(crate) fn entry(key: &str, value: impl Into<Variant<'static>>) -> (String, OwnedVariant) {
    let owned = OwnedVariant::try_from(value.into()).unwrap_or_else(|_| OwnedVariant::from(0_u32));
    (key.to_owned(), owned)
}
