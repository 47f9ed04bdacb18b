//! Random changes of random trees: the layer on top of those below makes the tree asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use store::tree::Index;

use super::random::Random;
use super::*;

const NAMES: [&[u8]; 4] = [b"a", b"a.b", b"ab", b"b"];

impl Random {
    fn meta(&mut self) -> Meta {
        Meta {
            mode: [0o700, 0o755][self.below(2)],
            ..Meta::default()
        }
    }

    fn file(&mut self) -> Thing {
        let hash = [u8::from(self.below(2) == 0); 32];
        Thing {
            kind: Kind::File { size: 1, hash },
            meta: self.meta(),
            content: Content::None,
            group: None,
        }
    }
}

type Model = BTreeMap<Vec<u8>, (Kind, u32)>;

fn model(view: &View) -> Model {
    let walk = view.walk(b"");
    walk.map(|visited| {
        let Entry { kind, mode, .. } = visited.found.entry;
        (visited.path.to_vec(), (kind.clone(), *mode))
    })
    .collect()
}

/// Something at a random path, whose parents are made unless one is a file.
fn change(random: &mut Random, destination: &mut Destination<'_>, model: &mut Model) {
    const DIRECTORY: Kind = Kind::Directory { opaque: false };
    let (path, meta) = (random.path(&NAMES), random.meta());
    let parent = ancestors(&path).last().unwrap_or_default();
    let made = destination.make_directories(parent, &meta, NewGroup::Given);
    if made.is_err() {
        return;
    }
    for level in ancestors(&path) {
        model
            .entry(level.to_vec())
            .or_insert((DIRECTORY, meta.mode));
    }
    if random.below(3) > 0 {
        let file = random.file();
        model.retain(|other, _| !is_below(other, &path));
        model.insert(path.clone(), (file.kind.clone(), file.meta.mode));
        destination.put(&path, file).unwrap();
    } else {
        model.insert(path.clone(), (DIRECTORY, meta.mode));
        destination.put_directory(&path, meta).unwrap();
    }
}

#[test]
fn the_layer_makes_the_tree_asked_for_and_says_no_more() {
    let mut random = Random::new();
    for round in 0..3000 {
        let mut view = View::default();
        let mut want = Model::new();
        // The second layer is made on top of the first, and so on.
        for _ in 0..3 {
            let mut destination = Destination::new(&view);
            for _ in 0..random.below(12) {
                change(&mut random, &mut destination, &mut want);
            }
            for (path, (kind, _)) in &want {
                let is_directory = matches!(kind, Kind::Directory { .. });
                let existing = destination.existing(path);
                let found = matches!(existing, Existing::Directory(_));
                assert!(existing != Existing::Nothing && found == is_directory);
            }
            let items = destination.into_items();
            let entries: Vec<Entry> = items.into_iter().map(|item| item.entry).collect();
            let index = Index::new(entries.clone());
            assert_eq!(index.entries(), entries, "sorted, round {round}");
            for entry in &entries {
                let found = view.lookup(&entry.path).map(|found| found.entry);
                let needed = match (&entry.kind, found) {
                    (Kind::Whiteout, found) => found.is_some(),
                    (_, Some(found)) if found == entry => index.subtree(&entry.path).len() > 1,
                    _ => true,
                };
                assert!(needed, "{entry:?}, round {round}");
            }
            let layers = view.layers().iter().cloned();
            view = View::new(layers.chain([Arc::new(index)]).collect());
            assert_eq!(model(&view), want, "round {round}");
        }
    }
}
