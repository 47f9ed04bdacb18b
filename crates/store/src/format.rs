//! The store on disk. Text only: the format is version 1.
//!
//! ```text
//! <root>/
//!   format                "layercake store 1\n"; any other text is refused
//!   lock                  flock: shared while a build runs, exclusive to prune or remove
//!   blobs/sha256/<hex>    compressed layers, configs, manifests, named by their bytes
//!   index/<hex>           what a layer (by diff_id) contains: see `codec`
//!   layers/<boot>/<32 hex>/   the files of a layer in overlay-upper format, below the first half
//!                         of the boot id under which they were written; other boots: not trusted
//!   records/<kind>/<hex>  BLAKE3 sum, then the record's bytes
//!   context/              stat caches of build contexts
//!   caches/               RUN --mount=type=cache
//!   git/                  commits that ADD fetched: a bare repository per remote, its lock;
//!                         known_hosts: keys of ssh hosts seen once
//!   logs/<time>/<n>.log   what the steps of a build printed; of the last builds
//!   host/<hex>            how steps can be run on this machine: JSON, made again when missing
//!   tmp/<name>/           one per process, its `lock` held while it lives
//! ```
//!
//! Everything but `layers` and `tmp` can be removed by its owner with `rm -rf`; those two may
//! hold files of mapped user ids and need `layercake prune --all`.
//!
//! Guarantees: readers never see half a file (rename). A process killed at any moment leaves only
//! its folder in `tmp`, which the next process takes away. Nothing is fsynced; what a power cut
//! garbles is recognised (sum, digest, boot id) and made again.
