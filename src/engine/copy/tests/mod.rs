//! By rule id; [`conformance`] runs recorded cases when it is told where they are.

mod conformance;
mod support;
