//! The Dockerfile, taken apart into its instructions and held against rules: what is pinned, who it runs as, what it copies.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{help, root, text};

/// One instruction with its arguments on one line.
#[derive(Debug)]
struct Instruction {
    name: String,
    rest: String,
}

fn instructions() -> Vec<Instruction> {
    let mut found: Vec<Instruction> = Vec::new();
    let mut line = String::new();
    for next in text("Dockerfile").lines() {
        let next = next.trim();
        if next.starts_with('#') || (next.is_empty() && line.is_empty()) {
            continue;
        }
        line.push_str(next.strip_suffix('\\').unwrap_or(next));
        line.push(' ');
        if next.ends_with('\\') {
            continue;
        }
        let (name, rest) = line.trim().split_once(' ').unwrap();
        found.push(Instruction { name: name.to_owned(), rest: rest.trim().to_owned() });
        line.clear();
    }
    assert!(line.is_empty(), "the last line goes on nowhere");
    found
}

/// The instructions of each stage, the first of which is its FROM; what stands before all stages comes first.
fn stages() -> Vec<Vec<Instruction>> {
    let mut stages = vec![Vec::new()];
    for instruction in instructions() {
        if instruction.name == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().unwrap().push(instruction);
    }
    stages
}

fn one<'a>(stage: &'a [Instruction], name: &str) -> &'a str {
    let mut found = stage.iter().filter(|instruction| instruction.name == name);
    let first = found.next().unwrap_or_else(|| panic!("the last stage has no {name}"));
    assert!(found.next().is_none(), "{name} stands there twice");
    &first.rest
}

/// The words of an instruction in its JSON form, which needs no shell.
fn words(rest: &str) -> Vec<String> {
    let value: Value =
        serde_json::from_str(rest).unwrap_or_else(|_| panic!("{rest} is not in the form of JSON"));
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn only_known_instructions_are_used_and_images_are_pinned() {
    const KNOWN: [&str; 16] = [
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
        "ONBUILD",
    ];
    let mut names = Vec::new();
    for Instruction { name, rest } in instructions() {
        // ADD fetches and unpacks.
        assert!(KNOWN.contains(&name.as_str()), "{name} {rest}");
        if name == "FROM" {
            let words: Vec<&str> = rest.split(' ').collect();
            let (_, tag) = words[0].split_once(':').unwrap_or_else(|| panic!("{rest} has no tag"));
            assert!(!tag.contains("latest") && tag.contains("bookworm"), "{rest}");
            if let [_, "AS", stage] = words[..] {
                names.push(stage.to_owned());
            }
        }
        if name == "RUN" {
            for word in ["sudo", "curl", "wget", "apt-get", "chmod 777"] {
                assert!(!rest.contains(word), "{word}: {rest}");
            }
        }
        if let Some(from) = rest.strip_prefix("--from=") {
            let stage = from.split(' ').next().unwrap();
            assert!(names.iter().any(|name| name == stage), "COPY {rest}: no such stage before");
        }
    }
}

#[test]
fn it_is_built_by_the_toolchain_of_the_project_from_the_lock_file_alone() {
    let stages = stages();
    let toolchain = text("rust-toolchain.toml");
    let version = toolchain.split("channel = \"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(one(&stages[0], "ARG"), format!("RUST_VERSION={version}"));
    let builds: Vec<&str> = stages[1]
        .iter()
        .filter(|instruction| instruction.name == "RUN")
        .flat_map(|instruction| instruction.rest.split("&& "))
        .filter(|command| command.contains("cargo build"))
        .collect();
    assert_eq!(builds.len(), 2, "dependencies, then the program");
    for build in builds {
        assert!(
            build.contains("--locked") && build.contains("--offline") && build.contains("--release"),
            "{build}"
        );
    }
    // The list of dependencies is copied before anything of ours, so that their layer lasts.
    let copies: Vec<&str> = stages[1]
        .iter()
        .filter(|instruction| instruction.name == "COPY")
        .map(|instruction| instruction.rest.as_str())
        .collect();
    assert_eq!(copies.first(), Some(&"Cargo.toml Cargo.lock ./"));
}

#[test]
fn what_is_copied_is_in_the_context_and_nothing_else_is() {
    let ignored = text(".dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "what is not named would be in the context");
    let mut let_in: Vec<&str> = lines.map(|line| line.strip_prefix('!').unwrap()).collect();
    let mut copied: Vec<String> = Vec::new();
    for instruction in instructions().iter().filter(|one| one.name == "COPY" && !one.rest.starts_with("--")) {
        let words: Vec<&str> = instruction.rest.split(' ').collect();
        copied.extend(words[..words.len() - 1].iter().map(|word| (*word).to_owned()));
    }
    let_in.sort_unstable();
    // A file of a folder that is let in is no more.
    let mut roots: Vec<&str> = copied.iter().map(|path| path.split('/').next().unwrap()).collect();
    roots.sort_unstable();
    roots.dedup();
    assert_eq!(let_in, roots);
    for source in copied {
        assert!(root().join(&source).exists(), "{source}");
    }
}

#[test]
fn the_image_runs_without_rights_and_without_a_shell() {
    let stages = stages();
    let last = stages.last().unwrap();
    let user = one(last, "USER");
    let ids: Vec<u32> =
        user.split(':').map(|id| id.parse().expect("a number, which clusters can check")).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| *id > 0), "{user}");
    let is_run = |instruction: &&Instruction| instruction.name == "RUN";
    assert_eq!(last.iter().filter(is_run).count(), 0, "the last stage runs nothing");
    assert_eq!(words(one(last, "ENTRYPOINT")), ["order-service"]);
    let command = words(one(last, "CMD"));
    assert!(help(&command.iter().map(String::as_str).collect::<Vec<_>>()).is_some(), "{command:?}");
    let (options, check) = one(last, "HEALTHCHECK").split_once("CMD ").unwrap();
    for option in ["--interval=", "--timeout=", "--start-period=", "--retries="] {
        assert!(options.contains(option), "{options}");
    }
    let check = words(check);
    assert_eq!(check[0], "order-service");
    assert!(
        help(&check[1..].iter().map(String::as_str).collect::<Vec<_>>()).is_some(),
        "{check:?} is no command"
    );
    assert_eq!(one(last, "STOPSIGNAL"), "SIGTERM");
    let volume = words(one(last, "VOLUME"));
    assert_eq!(volume, [one(last, "WORKDIR")], "data lands in the volume");
    assert!(last.iter().any(|one| one.name == "COPY" && one.rest.contains(&format!("--chown={user}"))));
    assert_eq!(one(last, "EXPOSE"), "50051 50052 9464");
    for label in ["title", "description", "licenses"] {
        assert!(one(last, "LABEL").contains(&format!("org.opencontainers.image.{label}=")));
    }
    // A setting in the environment would win over whatever file somebody mounts.
    let sets = |one: &&Instruction| one.name == "ENV" && one.rest.contains("ORDER__");
    assert_eq!(last.iter().filter(sets).count(), 0);
    let file = command.iter().skip_while(|word| *word != "--config").nth(1).unwrap();
    let copied = last.iter().filter(|one| one.name == "COPY").find_map(|one| one.rest.strip_suffix(file));
    // Whatever mode the checkout has, the user of the image can read it.
    let copied = copied.and_then(|from| from.strip_prefix("--chmod=644 ")).unwrap().trim();
    let merged = super::checked("the image's file", &[&root().join(copied)], &BTreeMap::new());
    let listens = [merged["grpc.listen"].as_str(), merged["ops.listen"].as_str()];
    assert_eq!(listens, ["0.0.0.0:50051", "0.0.0.0:9464"]);
}
