//! What the instructions of a stage ask of the command line, noted for the outline.

use std::collections::{BTreeMap, BTreeSet};

use dockerfile::LineRange;
use dockerfile::instruction::ArgDeclaration;

/// A declared argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArgUse {
    pub(crate) value: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) lines: LineRange,
    /// Variables its default looked up.
    pub(crate) needs: BTreeSet<String>,
}

impl ArgUse {
    pub(crate) fn new(declaration: &ArgDeclaration, lines: LineRange) -> Self {
        let description = declaration.description.clone();
        Self {
            value: None,
            description,
            lines,
            needs: BTreeSet::new(),
        }
    }
}

/// A secret or ssh agent, where it is first asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CredentialUse {
    pub(crate) required: bool,
    pub(crate) lines: LineRange,
}

/// Of one stage, its base not included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Arguments declared here, but for those that only take over a global value.
    pub(crate) args: BTreeMap<String, ArgUse>,
    /// Names declared here, whoever gives the value.
    pub(crate) used: BTreeSet<String>,
    pub(crate) secrets: BTreeMap<String, CredentialUse>,
    pub(crate) agents: BTreeMap<String, CredentialUse>,
}
