//! The pipeline of [`crate::floor::Stages`] by three clients and their timelines.
//!
//! Each stage is a client in a process of its own, with the two buffers imported that it copies between. It signals
//! one timeline and waits for that of the stage before it (the first one: of the last). No broker is on the way.

use anyhow::Context as _;
use vgem::{Access, Buffer, Deadline, Point, Timeline};
use vgem_os::mapping::{Span, SpanMut};

use super::Vgemd;
use super::partner::{given, imported, in_time, pass_token, send_token, take_token, taken};
use crate::floor::stages::{Done, FRAME_MAX, IN_FLIGHT, Place, Stages, obey, own_memory};
use crate::floor::{Fds, Order};
use crate::role::{Part, Role};

/// Starts the three stages.
///
/// # Errors
/// As the client library's requests.
pub fn start(vgemd: &Vgemd) -> anyhow::Result<Stages> {
    let frames = || vgemd.client.create(IN_FLIGHT * FRAME_MAX as u64);
    let (ab, bc) = (frames()?, frames()?);
    let mut stages = Vec::new();
    for _ in Place::ALL {
        let (link, fds) = given(vgemd, &[(&ab, Access::Write), (&bc, Access::Write)])?;
        stages.push((link, Role::start(Part::ClientStage, fds)?));
    }
    // Each is told of the one before it.
    let tokens = stages.iter().map(|(link, _)| pass_token(link)).collect::<anyhow::Result<Vec<_>>>()?;
    let before = tokens.iter().cycle().skip(Place::ALL.len() - 1);
    for ((link, _), token) in stages.iter().zip(before) {
        link.send(token, &[])?;
    }
    Ok(Stages::of(stages))
}

/// One stage.
pub(crate) fn stage(fds: &mut Fds) -> anyhow::Result<()> {
    let (client, link) = taken("stage", fds)?;
    let (ab, bc) = (imported(&client, fds)?, imported(&client, fds)?);
    let own = own_memory()?;
    let mut mine = client.timeline("stage")?;
    send_token(&link, &mut mine)?;
    let before = take_token(&link, &client)?;
    obey(&link, |order| {
        let mut done = Done::default();
        let by = in_time();
        for number in order.frames() {
            let at = number % IN_FLIGHT * FRAME_MAX as u64;
            let point = Point(order.base + number + 1);
            match order.place {
                Place::First => {
                    await_point(&before, Point(point.0.saturating_sub(IN_FLIGHT)), by)?;
                    fill(order, own.span(), &ab, at, by)?;
                }
                Place::Middle => {
                    await_point(&before, point, by)?;
                    let from = ab.read_explicit(at..at + order.len as u64, by)?;
                    fill(order, Span::of_slice(&from), &bc, at, by)?;
                }
                Place::Last => {
                    await_point(&before, point, by)?;
                    let from = bc.read_explicit(at..at + order.len as u64, by)?;
                    order.copy(Span::of_slice(&from), own.span_mut()?)?;
                    done.note(order, number);
                }
            }
            mine.signal(point)?;
        }
        Ok(done)
    })
}

#[inline]
fn await_point(before: &Timeline, point: Point, by: Deadline) -> anyhow::Result<()> {
    if point == Point(0) {
        return Ok(());
    }
    before.wait_for_submit(point, by).context("the stage before")
}

#[inline]
fn fill(order: &Order, from: Span<'_>, into: &Buffer, at: u64, by: Deadline) -> anyhow::Result<()> {
    let mut into = into.write_explicit(at..at + order.len as u64, by)?;
    order.copy(from, SpanMut::of_slice(&mut into))
}
