//! `--annotation [TYPE[PLATFORM]:]KEY=VALUE`, as buildx takes it.

use graph::facts::Platform;
use oci::image::Annotations;

use super::parse::{self, usage};
use crate::failure::Failure;

/// Reads all of them for an image of `platform`.
pub(super) fn parse(given: &[String], platform: &Platform) -> Result<Annotations, Failure> {
    let mut annotations = Annotations::default();
    for text in given.iter().filter(|text| !text.is_empty()) {
        one(text, platform, &mut annotations)?;
    }
    Ok(annotations)
}

fn one(text: &str, platform: &Platform, annotations: &mut Annotations) -> Result<(), Failure> {
    let Some((key, value)) = text.split_once('=') else {
        let message = format!("--annotation {text}: not of the form KEY=VALUE");
        return Err(usage(message));
    };
    let Some((kinds, key)) = key.split_once(':') else {
        annotations
            .manifest
            .insert(key.to_owned(), value.to_owned());
        return Ok(());
    };
    for kind in kinds.split(',') {
        let (kind, of) = match kind.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
            Some((kind, of)) => (kind, Some(parse::platform(of)?)),
            None => (kind, None),
        };
        if let Some(of) = of.filter(|of| of != platform) {
            let message = format!("--annotation {text}: no image for {of} is built");
            return Err(usage(message));
        }
        let list = match kind {
            "manifest" => &mut annotations.manifest,
            "manifest-descriptor" => &mut annotations.descriptor,
            "index" | "index-descriptor" => {
                let message =
                    format!("--annotation {text}: an image for one platform has no index");
                return Err(usage(message).hint("use manifest: or manifest-descriptor:"));
            }
            other => {
                let message = format!("--annotation {text}: unknown annotation type {other:?}");
                return Err(usage(message).hint("use manifest: or manifest-descriptor:"));
            }
        };
        list.insert(key.to_owned(), value.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_go_where_their_type_says() {
        let amd64 = parse::platform("linux/amd64").expect("a platform");
        let parse = |text: &str| parse(&[text.to_owned()], &amd64);
        let found = parse("a=b=c").expect("no type");
        assert_eq!(found.manifest["a"], "b=c");
        let found = parse("manifest,manifest-descriptor[linux/amd64]:k=v").expect("two types");
        assert_eq!((&*found.manifest["k"], &*found.descriptor["k"]), ("v", "v"));
        for (text, names) in [
            ("a", "KEY=VALUE"),
            ("index:a=b", "no index"),
            ("index-descriptor:a=b", "no index"),
            ("layer:a=b", "layer"),
            ("manifest[linux/arm64]:a=b", "linux/arm64"),
        ] {
            let failure = parse(text).expect_err(text);
            assert!(failure.message.contains(names), "{}", failure.message);
        }
    }
}
