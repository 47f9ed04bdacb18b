//! A map from paths, by component: one walk from the root finds what is at a path and what is
//! above it, and iteration has a directory right before what is in it.

use std::collections::BTreeMap;
use std::collections::btree_map::Values;

/// A map in the order of [`store::tree::compare_paths`]. Nothing in it recurses, as paths may be
/// of any depth.
#[derive(Debug)]
pub(super) struct PathMap<T> {
    /// The root first. What is removed stays as a node that nothing leads to.
    nodes: Vec<Node<T>>,
}

/// A path of one [`PathMap`], with a value or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(usize);

#[derive(Debug)]
struct Node<T> {
    value: Option<T>,
    children: BTreeMap<Box<[u8]>, Place>,
}

const ROOT: Place = Place(0);

impl<T> PathMap<T> {
    #[must_use]
    pub(super) fn new() -> Self {
        let mut map = Self { nodes: Vec::new() };
        map.add();
        map
    }

    fn add(&mut self) -> Place {
        self.nodes.push(Node {
            value: None,
            children: BTreeMap::new(),
        });
        Place(self.nodes.len() - 1)
    }

    #[must_use]
    pub(super) fn get(&self, path: &[u8]) -> Option<&T> {
        self.get_below(path, |_| {})
    }

    /// What is at `path`; `above` is told of the values on the way there, outermost first.
    pub(super) fn get_below(&self, path: &[u8], mut above: impl FnMut(&T)) -> Option<&T> {
        let mut node = &self.nodes[ROOT.0];
        for name in components(path) {
            node.value.iter().for_each(&mut above);
            node = &self.nodes[node.children.get(name)?.0];
        }
        node.value.as_ref()
    }

    /// The place of `path`, made if need be; `above` as in [`Self::get_below`].
    pub(super) fn place(&mut self, path: &[u8], mut above: impl FnMut(&T)) -> Place {
        let mut at = ROOT;
        for name in components(path) {
            let node = &self.nodes[at.0];
            node.value.iter().for_each(&mut above);
            at = match node.children.get(name) {
                Some(child) => *child,
                None => {
                    let child = self.add();
                    self.nodes[at.0].children.insert(name.into(), child);
                    child
                }
            };
        }
        at
    }

    pub(super) fn at(&mut self, place: Place) -> &mut Option<T> {
        &mut self.nodes[place.0].value
    }

    /// Removes everything below `place`.
    pub(super) fn remove_below(&mut self, place: Place) {
        let mut gone = vec![place];
        while let Some(place) = gone.pop() {
            let children = std::mem::take(&mut self.nodes[place.0].children);
            for child in children.into_values() {
                self.nodes[child.0].value = None;
                gone.push(child);
            }
        }
    }

    /// All places, in order.
    fn places(&self) -> impl Iterator<Item = Place> {
        let below = Below {
            map: self,
            pending: vec![self.nodes[ROOT.0].children.values()],
        };
        std::iter::once(ROOT).chain(below)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        let value = |place: Place| self.nodes[place.0].value.as_ref();
        self.places().filter_map(value)
    }

    /// Calls `change` for each value, in order.
    pub(super) fn for_each_mut(&mut self, mut change: impl FnMut(&mut T)) {
        let places: Vec<Place> = self.places().collect();
        for place in places {
            self.nodes[place.0].value.iter_mut().for_each(&mut change);
        }
    }

    pub(super) fn into_values(mut self) -> impl Iterator<Item = T> {
        let places: Vec<Place> = self.places().collect();
        let value = move |place: Place| self.nodes[place.0].value.take();
        places.into_iter().filter_map(value)
    }
}

/// All places but the root.
struct Below<'a, T> {
    map: &'a PathMap<T>,
    pending: Vec<Values<'a, Box<[u8]>, Place>>,
}

impl<T> Iterator for Below<'_, T> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        loop {
            let Some(place) = self.pending.last_mut()?.next() else {
                self.pending.pop();
                continue;
            };
            let node = &self.map.nodes[place.0];
            if !node.children.is_empty() {
                self.pending.push(node.children.values());
            }
            return Some(*place);
        }
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|c| *c == b'/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use store::tree::compare_paths;

    use super::super::random::Random;
    use super::*;

    fn put<T>(map: &mut PathMap<T>, path: &[u8], value: T) -> Option<T> {
        let place = map.place(path, |_| {});
        map.at(place).replace(value)
    }

    #[test]
    fn a_walk_tells_of_all_values_above() {
        let mut map = PathMap::new();
        for path in ["a/b/c", "", "a", "a.b"] {
            put(&mut map, path.as_bytes(), path);
        }
        let table = [
            ("", Some(""), vec![]),
            ("a/b/c", Some("a/b/c"), vec!["", "a"]),
            ("a/b", None, vec!["", "a"]),
            ("a/b/c/d/e", None, vec!["", "a", "a/b/c"]),
            ("a.b/c", None, vec!["", "a.b"]),
        ];
        for (path, value, want) in table {
            let mut above = Vec::new();
            let found = map.get_below(path.as_bytes(), |v| above.push(*v));
            assert_eq!((found.copied(), &above), (value, &want), "{path}");
            above.clear();
            map.place(path.as_bytes(), |v| above.push(*v));
            assert_eq!(above, want, "{path}");
        }
        assert!(map.into_values().eq(["", "a", "a/b/c", "a.b"]));
    }

    #[test]
    fn paths_may_be_deep() {
        let path = b"a/".repeat(200_000);
        let mut map = PathMap::new();
        put(&mut map, &path, 1);
        assert_eq!(map.get(&path), Some(&1));
        assert!(map.values().eq([&1]));
        map.remove_below(ROOT);
        assert_eq!(map.get(&path), None);
        put(&mut map, &path, 2);
        assert!(map.into_values().eq([2]));
    }

    const NAMES: [&[u8]; 6] = [b"a", b"a.b", b"a!", b"ab", b"\x01", b"\xff"];

    #[test]
    fn it_is_a_map_in_the_order_of_layers() {
        let mut random = Random::new();
        for round in 0..500 {
            let mut map = PathMap::new();
            let mut model = HashMap::new();
            for step in 0..100 {
                let path = random.path(&NAMES);
                if random.below(5) == 0 {
                    let place = map.place(&path, |_| {});
                    map.remove_below(place);
                    let below = [&path[..], b"/"].concat();
                    model.retain(|path: &Vec<u8>, _| !path.starts_with(&below));
                } else {
                    assert_eq!(put(&mut map, &path, step), model.insert(path, step));
                }
                let path = random.path(&NAMES);
                assert_eq!(map.get(&path), model.get(&path));
            }
            map.for_each_mut(|value| *value += 1);
            let mut model: Vec<_> = model.into_iter().collect();
            model.sort_by(|(a, _), (b, _)| compare_paths(a, b));
            let want: Vec<_> = model.into_iter().map(|(_, value)| value + 1).collect();
            assert!(map.values().eq(&want), "round {round}");
            assert_eq!(map.into_values().collect::<Vec<_>>(), want, "round {round}");
        }
    }
}
