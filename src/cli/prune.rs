//! `layercake prune`: frees what the store holds.

use clap::Args;
use sandbox::inside::Inside;

use super::parse::usage;
use crate::failure::Failure;
use crate::{config, engine};

/// Remove the local store
#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Remove everything: cache, tags and layers, whoever owns them
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &PruneArgs, inside: Option<Inside>) -> Result<u8, Failure> {
    if !args.all {
        let failure = usage("prune without --all is not implemented");
        return Err(failure.hint("layercake prune --all removes the whole store"));
    }
    engine::prune_all(&config::store_root()?, inside.as_ref())
}
