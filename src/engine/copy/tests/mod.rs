//! By rule id; [`conformance`] runs recorded cases when it is told where they are.

mod archives;
mod conformance;
mod flags;
mod keys;
mod paths;
mod support;
mod users;
