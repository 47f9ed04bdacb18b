//! What comes out: layouts, tags, digests, files on the side.

use std::fs;

use serde_json::Value;

use crate::support::{Env, Image, can_run};

#[test]
fn an_image_from_scratch_needs_no_privileges_and_has_the_default_config() {
    let env = Env::bare();
    env.write("hello", "hi\n");
    env.dockerfile("FROM scratch\nCOPY hello /hello\nCMD [\"/hello\"]\n");
    let said = env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.text("hello"), "hi\n");
    assert_eq!(image.file("hello").owner, (0, 0));
    let config = &image.config["config"];
    assert_eq!(config["Cmd"], serde_json::json!(["/hello"]));
    assert_eq!(config["WorkingDir"], "/");
    assert_eq!(image.config["os"], "linux");
    assert_eq!(image.config["created"], "1980-01-02T00:00:00Z");
    let index: Value =
        serde_json::from_slice(&fs::read(env.path("out/index.json")).unwrap()).unwrap();
    assert_eq!(
        index["manifests"][0]["digest"].as_str(),
        Some(said.digest().as_str())
    );
}

#[test]
fn u11_no_instructions_at_all_is_an_image_without_layers() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\n");
    env.build(&[]).success();
    assert_eq!(env.image().manifest["layers"], serde_json::json!([]));
}

#[test]
fn a_tag_without_output_stays_in_the_store_and_can_be_built_from() {
    let env = Env::bare();
    env.write("f", "1");
    env.dockerfile("FROM scratch\nCOPY f /one\nENV A=b\n");
    env.build_to(&["-t", "mine:v1"]).success();
    env.dockerfile("FROM mine:v1\nCOPY f /two\n");
    env.build(&[]).success();
    let image = env.image();
    assert!(image.has("one") && image.has("two"));
    let variables = image.config["config"]["Env"].to_string();
    assert!(variables.contains("A=b"), "{variables}");
}

#[test]
fn two_names_are_two_descriptors_of_one_manifest() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    env.build(&["-t", "x:1", "-t", "x:2"]).success();
    let index: Value =
        serde_json::from_slice(&fs::read(env.path("out/index.json")).unwrap()).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    let name = |m: &Value| m["annotations"]["org.opencontainers.image.ref.name"].clone();
    assert_eq!(manifests.iter().map(name).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(manifests[0]["digest"], manifests[1]["digest"]);
}

#[test]
fn the_tar_form_holds_the_same_image() {
    let env = Env::bare();
    env.write("f", "1");
    env.dockerfile("FROM scratch\nCOPY f /f\n");
    let directory = env.build(&[]).success().digest();
    let path = env.path("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    assert_eq!(
        env.build_to(&["--output", &out]).success().digest(),
        directory
    );
    let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    for name in ["oci-layout", "index.json"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}

#[test]
fn the_digest_goes_to_stdout_and_to_the_files_asked_for() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    let (iid, metadata) = (env.path("iid"), env.path("metadata.json"));
    let iid_flag = iid.display().to_string();
    let metadata_flag = metadata.display().to_string();
    let said = env
        .build(&[
            "--iidfile",
            &iid_flag,
            "--metadata-file",
            &metadata_flag,
            "-q",
            "-t",
            "n:1",
        ])
        .success();
    let image = env.image();
    let config_digest = image.manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(fs::read_to_string(iid).unwrap(), config_digest);
    let metadata: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], said.digest().as_str());
    assert_eq!(metadata["containerimage.config.digest"], config_digest);
    assert_eq!(said.stderr, "");
}

#[test]
fn l18_layers_of_a_base_keep_their_digests() {
    if !can_run() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN echo x > /x\n");
    env.build(&[]).success();
    let base = fs::read_to_string(env.path("base-path")).unwrap();
    let base = Image::read(base.as_ref());
    let image = env.image();
    for (number, layer) in base.manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        assert_eq!(image.manifest["layers"][number], *layer);
    }
}
