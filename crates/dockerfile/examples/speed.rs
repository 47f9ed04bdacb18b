//! How fast a folder of Dockerfiles parses: `speed FOLDER [ROUNDS]`. Build it with --release.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::time::Instant;

use layercake_dockerfile::{Source, parse};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .unwrap_or_else(|| "testdata/dockerfile".to_owned());
    let rounds: u32 = arguments
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(10);
    let sources = read(PathBuf::from(folder))?;
    let bytes: usize = sources.iter().map(|source| source.text.len()).sum();
    let start = Instant::now();
    let mut instructions = 0;
    for _ in 0..rounds {
        for source in &sources {
            let file = parse(source).file;
            instructions += file
                .stages
                .iter()
                .map(|stage| stage.instructions.len())
                .sum::<usize>();
        }
    }
    let seconds = start.elapsed().as_secs_f64() / f64::from(rounds.max(1));
    let megabytes = bytes as f64 / 1e6;
    println!(
        "{} files, {megabytes:.2} MB, {} instructions: {:.1} ms, {:.2} ms per MB",
        sources.len(),
        instructions / rounds.max(1) as usize,
        seconds * 1e3,
        seconds * 1e3 / megabytes
    );
    Ok(())
}

fn read(folder: PathBuf) -> std::io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
                sources.push(Source {
                    name: path.display().to_string(),
                    text,
                });
            }
        }
    }
    Ok(sources)
}
