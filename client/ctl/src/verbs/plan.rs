//! What `vgemctl run` makes of an operation's description: which file goes to which operand, and what comes out.
//!
//! ```text
//!   first operand that is read, and not named by --operand   <- IN
//!   first operand that must be written                       -> OUT     (else: one that is read and written)
//!   neither                                                  -> OUT gets a line: the digest or the value
//! ```
//!
//! Nothing here talks to a broker.

use vgem::{Direction, Operation, ParamKind, ParamValue};

use crate::exit::Usage;

/// Where an operand's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file, or standard input.
    File(String),
    /// Zeros.
    Zeros,
}

/// An operand that is given to the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) operand: String,
    pub(crate) source: Source,
    /// Its bytes go to OUT afterwards.
    pub(crate) result: bool,
    pub(crate) direction: Direction,
}

/// A job that is still on paper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) given: Vec<Given>,
    /// Where the result goes.
    pub(crate) out: String,
    /// The name that stands beside a digest, as sha256sum prints it; nothing if no file is read.
    pub(crate) named: Option<String>,
}

/// Matches files with operands.
pub(crate) fn plan(
    operation: &Operation,
    files: &[String],
    named: &[(String, String)],
) -> anyhow::Result<Plan> {
    for (name, _) in named {
        if !operation.operands.iter().any(|operand| operand.name == *name && is_fed(operand.direction)) {
            let known = operation.operands.iter().filter(|operand| is_fed(operand.direction));
            let known: Vec<_> = known.map(|operand| operand.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(
                Usage(format!("{} reads no operand {name:?}; it reads {known}", operation.name)).into()
            );
        }
    }
    let mut files = files.iter();
    let mut next = || files.next().cloned();
    let (mut given, mut input, mut missing) = (Vec::new(), None, Vec::new());
    for operand in operation.operands.iter().filter(|operand| operand.direction == Direction::In) {
        let file = named.iter().find(|(name, _)| *name == operand.name).map(|(_, file)| file.clone());
        let file = match file {
            Some(file) => file,
            None if input.is_none() => {
                let file = next().unwrap_or_else(|| "-".into());
                input = Some(file.clone());
                file
            }
            None if operand.required => {
                missing.push(operand.name.as_str());
                continue;
            }
            None => continue,
        };
        let (source, direction) = (Source::File(file), operand.direction);
        given.push(Given { operand: operand.name.clone(), source, result: false, direction });
    }
    if let [first, ..] = missing.as_slice() {
        return Err(Usage(format!(
            "{} needs {} too; give it as --operand {first}=FILE",
            operation.name,
            missing.join(" and ")
        ))
        .into());
    }
    given.extend(written(operation, named));
    let out = next().unwrap_or_else(|| "-".into());
    if let Some(extra) = next() {
        return Err(Usage(format!("{} takes no further file {extra:?}", operation.name)).into());
    }
    let stdin = given.iter().filter(|one| one.source == Source::File("-".into())).count();
    if stdin > 1 {
        return Err(Usage("standard input can be read for one operand only".into()).into());
    }
    Ok(Plan { given, out, named: input })
}

/// The operands that are written, the first of them with the result; optional ones that only repeat what the cell says
/// are left out.
fn written(operation: &Operation, named: &[(String, String)]) -> Vec<Given> {
    let mut given = Vec::new();
    let operands = operation.operands.iter();
    for operand in operands.filter(|operand| matches!(operand.direction, Direction::Out | Direction::InOut)) {
        let file = named.iter().find(|(name, _)| *name == operand.name).map(|(_, file)| file.clone());
        if !operand.required && file.is_none() {
            continue;
        }
        let source = file.map_or(Source::Zeros, Source::File);
        let result = !given.iter().any(|one: &Given| one.result);
        given.push(Given { operand: operand.name.clone(), source, result, direction: operand.direction });
    }
    given
}

fn is_fed(direction: Direction) -> bool {
    matches!(direction, Direction::In | Direction::InOut)
}

/// A parameter's value, from the text of the command line.
pub(crate) fn value<'a>(operation: &Operation, name: &str, text: &'a str) -> anyhow::Result<ParamValue<'a>> {
    let kind = operation.params.iter().find(|param| param.name == name).map(|param| &param.kind);
    match kind {
        Some(ParamKind::Number { min, max, .. }) => match number(text) {
            Some(number) if (*min..=*max).contains(&number) => Ok(ParamValue::Number(number)),
            _ => Err(Usage(format!("--param {name}: {text:?} is no number from {min} to {max}")).into()),
        },
        // A wrong name or word is told by the library, with those there are.
        _ => Ok(ParamValue::Text(text)),
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Operation {
        use vgem::Touch::InPlace;
        Operation::new(0, "seal", "")
            .operand("input", Direction::In, InPlace)
            .operand("output", Direction::Out, InPlace)
            .operand("key", Direction::In, InPlace)
            .operand("aad", Direction::In, InPlace)
            .optional()
            .number("level", "", 1, 9, None)
            .with_result("")
    }

    fn pairs(named: &[(&str, &str)]) -> Vec<(String, String)> {
        named.iter().map(|(name, file)| ((*name).to_owned(), (*file).to_owned())).collect()
    }

    fn operands(plan: &Plan) -> Vec<(&str, &Source, bool)> {
        plan.given.iter().map(|one| (one.operand.as_str(), &one.source, one.result)).collect()
    }

    #[test]
    fn input_and_output_are_found_by_direction() {
        let files = ["a".to_owned(), "b".to_owned()];
        let plan = plan(&operation(), &files, &pairs(&[("key", "k")])).expect("complete");
        let (a, k) = (Source::File("a".into()), Source::File("k".into()));
        assert_eq!(
            operands(&plan),
            [("input", &a, false), ("key", &k, false), ("output", &Source::Zeros, true)]
        );
        assert_eq!(plan.out, "b");
    }

    #[test]
    fn a_missing_operand_is_named_with_how_to_give_it() {
        let said = plan(&operation(), &["a".into(), "b".into()], &[]).map_err(|error| error.to_string());
        assert_eq!(said, Err("seal needs key too; give it as --operand key=FILE".into()));
    }

    #[test]
    fn an_operand_that_is_not_there_is_refused_with_those_that_are() {
        let said = plan(&operation(), &[], &pairs(&[("salt", "s")])).map_err(|error| error.to_string());
        assert_eq!(said, Err("seal reads no operand \"salt\"; it reads input, key, aad".into()));
    }

    #[test]
    fn standard_input_is_read_once() {
        let said = plan(&operation(), &[], &pairs(&[("key", "-")])).map_err(|error| error.to_string());
        assert_eq!(said, Err("standard input can be read for one operand only".into()));
    }

    #[test]
    fn an_operation_that_makes_no_data_prints_to_out() {
        let digest = Operation::new(0, "sum", "")
            .operand("input", Direction::In, vgem::Touch::InPlace)
            .operand("output", Direction::Out, vgem::Touch::InPlace)
            .optional()
            .with_result("");
        let plan = plan(&digest, &["a".into()], &[]).expect("complete");
        assert!(!plan.given.iter().any(|one| one.result));
        assert_eq!((plan.out.as_str(), plan.named.as_deref()), ("-", Some("a")));
    }

    #[test]
    fn a_number_outside_its_range_is_refused_with_the_range() {
        let said = value(&operation(), "level", "10").map_err(|error| error.to_string());
        assert_eq!(said, Err("--param level: \"10\" is no number from 1 to 9".into()));
        assert_eq!(value(&operation(), "level", "0x9").expect("a number"), ParamValue::Number(9));
    }
}
