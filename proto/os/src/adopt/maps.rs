//! What may be adopted, by what `/proc/self/maps` says of it.

use std::mem::MaybeUninit;
use std::ops::Range;

use nix::libc;

use crate::error::{Attempt, Result};

use super::unfit;

/// One line of `/proc/self/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Area<'a> {
    start: usize,
    end: usize,
    access: &'a str,
    name: &'a str,
}

/// Whether the `len` bytes at `start` may become an object's.
pub(super) fn check(start: usize, len: usize) -> Result<()> {
    let page = rustix::param::page_size();
    let end = whole_pages(start, len, page)?;
    let here = 0_u8;
    let frame = std::ptr::from_ref(&here).addr();
    let stack = own_stack();
    // A coroutine's frame is not on the stack of its thread.
    if (start..end).contains(&frame) || (start < stack.end && stack.start < end) {
        return Err(unfit(format!("{start:#x}-{end:#x} is the stack of the calling thread")));
    }
    let path = "/proc/self/maps";
    let maps = std::fs::read_to_string(path).attempting("read", || path.into())?;
    covered(&maps, start, end)
}

/// The stack of the calling thread, whose frames the caller's are; nothing if the system does not tell.
fn own_stack() -> Range<usize> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: U6. Of the calling thread, into memory of the type, which it initialises unless it fails.
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
        return 0..0;
    }
    let (mut start, mut len) = (std::ptr::null_mut(), 0);
    // SAFETY: U6. Initialised above; both places live during the call.
    let told = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut len) };
    // SAFETY: U6. Initialised above, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if told == 0 { start.addr()..start.addr().saturating_add(len) } else { 0..0 }
}

/// The end of the range, if it is made of whole pages.
fn whole_pages(start: usize, len: usize, page: usize) -> Result<usize> {
    if len == 0 {
        return Err(unfit(format!("0 bytes at {start:#x}, at least a page of {page} is wanted")));
    }
    if !start.is_multiple_of(page) {
        return Err(unfit(format!(
            "the first page is covered in part: {start:#x} is {} bytes into a page of {page}",
            start % page
        )));
    }
    if !len.is_multiple_of(page) {
        return Err(unfit(format!(
            "the last page is covered in part: of {len} bytes, {} are in a page of {page}",
            len % page
        )));
    }
    start.checked_add(len).ok_or_else(|| unfit(format!("{len} bytes at {start:#x} do not end")))
}

/// Whether `[start, end)` is covered by areas that can be adopted.
fn covered(maps: &str, start: usize, end: usize) -> Result<()> {
    let mut next = start;
    for area in maps.lines().filter_map(parse) {
        if area.end <= next {
            continue;
        }
        if area.start > next || next >= end {
            break;
        }
        if let Some(why) = objection(&area) {
            return Err(unfit(format!("{:#x}-{:#x} {why}", area.start.max(start), area.end.min(end))));
        }
        next = area.end;
    }
    if next < end {
        return Err(unfit(format!("{next:#x} in {start:#x}-{end:#x} is not mapped")));
    }
    Ok(())
}

fn objection(area: &Area<'_>) -> Option<String> {
    let Area { access, name, .. } = area;
    if access.ends_with('s') {
        return Some(format!("is shared memory ({name}), private memory is wanted"));
    }
    // Memory to execute would not be that any more.
    if *access != "rw-p" {
        return Some(format!("has the access {access}, reading and writing are wanted"));
    }
    if name.starts_with("/anon_hugepage") {
        return Some("has reserved huge pages, ordinary memory is wanted".into());
    }
    let ordinary = !name.starts_with('[') || *name == "[heap]" || name.starts_with("[anon:");
    (!ordinary).then(|| format!("is {name}, ordinary memory is wanted"))
}

fn parse(line: &str) -> Option<Area<'_>> {
    // start-end access offset device inode, and then spaces and the name, which may have spaces.
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (access, rest) = rest.split_once(' ')?;
    let name = rest.splitn(4, ' ').nth(3).unwrap_or("").trim_start();
    let number = |hex| usize::from_str_radix(hex, 16).ok();
    Some(Area { start: number(start)?, end: number(end)?, access, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00010000-00012000 rw-p 00000000 00:00 0 
00012000-00014000 rw-p 00000000 fe:00 1234                               /usr/lib/a b.so
00014000-00015000 r--p 00000000 00:00 0 
00016000-00017000 rw-s 00000000 00:01 77                                 /memfd:x (deleted)
00017000-00018000 rw-p 00000000 00:00 0                                  [stack]
00018000-00019000 rw-p 00000000 00:00 0                                  [heap]
00019000-0001a000 rw-p 00000000 00:00 0                                  [anon:arena]
0001a000-0021a000 rw-p 00000000 00:0f 9                                  /anon_hugepage (deleted)
0021b000-0021c000 rwxp 00000000 00:00 0 
";

    fn why(start: usize, end: usize) -> String {
        covered(MAPS, start, end).unwrap_err().to_string()
    }

    #[test]
    fn private_memory_over_several_mappings_is_taken() {
        assert_eq!(covered(MAPS, 0x10000, 0x14000), Ok(()));
        assert_eq!(covered(MAPS, 0x11000, 0x13000), Ok(()));
        assert_eq!(covered(MAPS, 0x18000, 0x1a000), Ok(()));
    }

    #[test]
    fn a_hole_is_named_by_its_address() {
        assert!(why(0x13000, 0x17000).contains("0x14000-0x15000 has the access r--p"));
        assert!(why(0x15000, 0x17000).contains("0x15000 in 0x15000-0x17000 is not mapped"));
        assert!(why(0x219000, 0x21b000).contains("reserved huge pages"));
        assert!(why(0x21a000, 0x21b000).contains("0x21a000 in"));
    }

    #[test]
    fn what_is_not_ordinary_private_memory_is_named() {
        assert!(why(0x16000, 0x17000).contains("shared memory (/memfd:x (deleted))"));
        assert!(why(0x17000, 0x18000).contains("is [stack]"));
        assert!(why(0x21b000, 0x21c000).contains("has the access rwxp"));
    }

    #[test]
    fn a_page_covered_in_part_is_told_with_how_much_of_it() {
        let said = |start, len| whole_pages(start, len, 4096).unwrap_err().to_string();
        assert!(said(0x1010, 4096).contains("0x1010 is 16 bytes into a page of 4096"));
        assert!(said(0x1000, 5000).contains("of 5000 bytes, 904 are in a page of 4096"));
        assert!(said(0x1000, 0).contains("at least a page of 4096"));
        assert!(said(usize::MAX - 4095, 8192).contains("do not end"));
    }

    #[test]
    fn a_name_with_spaces_is_read_whole() {
        assert_eq!(MAPS.lines().nth(1).and_then(parse).unwrap().name, "/usr/lib/a b.so");
    }
}
