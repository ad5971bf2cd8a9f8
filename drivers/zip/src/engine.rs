//! The engine: which format a task asks for, and how its operands may be touched.

use vgem_driver::window::share_bytes;
use vgem_driver::{Engine, JobError, Options, Staging, Task};
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;

use crate::description::{EXECUTORS, FORMAT, INPUT, LEVEL, OUTPUT, description, op};
use crate::format::Format;
use crate::ports::{Ports, Reach};
use crate::{deflate, lz4, zstd};

/// The `zip` device.
#[derive(Debug, Clone, Copy)]
pub struct ZipEngine {
    executors: u16,
}

impl ZipEngine {
    /// An engine with as many executors as the options say; without a word, [`EXECUTORS`] or one per core if
    /// there are fewer cores.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self { executors: options.executors_or(EXECUTORS) }
    }
}

impl Engine for ZipEngine {
    fn description(&self) -> Description {
        description(self.executors)
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        let format = Format::from_word(task.number(FORMAT))?;
        let ports = ports_of(task)?;
        let done = match task.op() {
            op::COMPRESS => {
                let level = format.level(task.try_number(LEVEL))?;
                match format {
                    Format::Gzip | Format::Zlib | Format::Deflate => deflate::compress(format, level, ports)?,
                    Format::Zstd => zstd::compress(level, ports)?,
                    Format::Lz4 => lz4::compress(ports)?,
                }
            }
            op::DECOMPRESS => match format {
                Format::Gzip | Format::Zlib | Format::Deflate => deflate::decompress(format, ports)?,
                Format::Zstd => zstd::decompress(ports)?,
                Format::Lz4 => lz4::decompress(ports)?,
            },
            other => {
                let text = format!("zip has no operation {other}");
                return Err(JobError::new(ErrorCode::NoSuchOperation, text));
            }
        };
        task.set_len(done.len as u64);
        task.set_value(ports.input.len() as u64);
        task.add_staged(done.staged);
        Ok(())
    }
}

fn ports_of<'a>(task: &Task<'a>) -> Result<Ports<'a>, JobError> {
    let (input, output) = (task.input(INPUT)?, task.output(OUTPUT)?);
    let overlap = share_bytes(input, output.as_span());
    let reach = |operand| match task.staging(operand) {
        Staging::InPlace if !overlap => Reach::InPlace,
        Staging::InPlace | Staging::Windows => Reach::Private,
    };
    Ok(Ports { input, input_reach: reach(INPUT), output, output_reach: reach(OUTPUT), overlap })
}
