//! How fast Dockerfiles parse: `speed FOLDER|FILE [ROUNDS]`. Build it with --release; it uses one
//! thread. The best round counts: the others met something else that ran on the machine.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use layercake_dockerfile::{Source, parse};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments
        .next()
        .unwrap_or_else(|| "testdata/dockerfile".to_owned());
    let rounds: u32 = arguments
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(10);
    let sources = read(Path::new(&place))?;
    let bytes: usize = sources.iter().map(|source| source.text.len()).sum();
    let mut best = Duration::MAX;
    let mut instructions = 0;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        instructions = sources.iter().map(instructions_of).sum();
        best = best.min(start.elapsed());
    }
    let milliseconds = best.as_secs_f64() * 1e3;
    let megabytes = bytes as f64 / 1e6;
    println!(
        "{} files, {megabytes:.2} MB, {instructions} instructions: {milliseconds:.1} ms, {:.2} ms per MB",
        sources.len(),
        milliseconds / megabytes
    );
    Ok(())
}

fn instructions_of(source: &Source) -> usize {
    let file = black_box(parse(source)).file;
    file.stages
        .iter()
        .map(|stage| stage.instructions.len())
        .sum()
}

fn read(place: &Path) -> std::io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut open: Vec<PathBuf> = vec![place.to_path_buf()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                open.push(entry?.path());
            }
            continue;
        }
        sources.push(Source {
            name: path.display().to_string(),
            text: String::from_utf8_lossy(&std::fs::read(&path)?).into_owned(),
        });
    }
    Ok(sources)
}
