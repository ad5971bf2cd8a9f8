//! Examples of the vgem client library, one page of the manual each. The programs are beside this file.
#![forbid(unsafe_code)]
