//! Commands and links in the pages for operators lead somewhere.

use std::collections::BTreeSet;

use super::prometheus::anchors;
use super::{help, root, text};

const PAGES: [&str; 4] = ["README.md", "docs/runbook.md", "docs/scaling.md", "deploy/README.md"];

/// What stands between backticks or in blocks of code of a page, one command a piece.
fn code(page: &str) -> Vec<String> {
    let (mut pieces, mut prose, mut block) = (Vec::new(), String::new(), false);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            block = !block;
        } else if block {
            pieces.push(line.trim().trim_start_matches("$ ").to_owned());
        } else {
            prose.push_str(line);
            prose.push(' ');
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    pieces.extend(spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")));
    pieces
}

/// The arguments of `order-service` in a command, where it is what is run.
fn arguments(piece: &str) -> Option<&str> {
    const BEFORE: [&str; 7] = ["", "-- ", "| ", "&& ", "node-1 ", "node-2 ", "node-3 "];
    let piece = piece.split(" #").next().unwrap_or_default();
    piece.match_indices("order-service ").find_map(|(at, name)| {
        let before = &piece[..at];
        // Settings may stand before it.
        let before = before.rsplit_once("ORDER__").map_or(before, |(start, _)| start);
        let is_run =
            BEFORE.iter().any(|end| if end.is_empty() { before.is_empty() } else { before.ends_with(end) });
        is_run.then(|| &piece[at + name.len()..])
    })
}

/// The words that name a subcommand, and the options behind them.
fn split(arguments: &str) -> (Vec<&str>, Vec<&str>) {
    let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let end = arguments.find([';', '|', '&', '>']).unwrap_or(arguments.len());
    let all: Vec<&str> = arguments[..end].split(' ').filter(|word| !word.is_empty()).collect();
    let words: Vec<&str> =
        all.iter().copied().take_while(|word| is_word(word) && !word.starts_with('-')).collect();
    let options = all.iter().copied().filter(|word| word.starts_with("--")).collect();
    (words, options)
}

#[test]
fn every_command_in_the_pages_exists_with_its_options() {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for page in PAGES {
        for piece in code(&text(page)) {
            let Some(arguments) = arguments(&piece) else { continue };
            let (words, options) = split(arguments);
            if !seen.insert((words.join(" "), options.join(" "))) {
                continue;
            }
            match help(&words) {
                None => wrong.push(format!("{page}: order-service {} is no command", words.join(" "))),
                Some(told) => wrong.extend(
                    options
                        .iter()
                        .filter(|option| !told.contains(*option))
                        .map(|option| format!("{page}: order-service {} has no {option}", words.join(" "))),
                ),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for command in ["ops stuck", "ops explain", "cluster nodes", "cluster drain", "migrate"] {
        assert!(seen.iter().any(|(words, _)| words == command), "no page tells of {command}");
    }
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let page = "Run `order-service ops\nfoo --bar` or:\n```console\n$ ORDER__X=1 order-service cluster nodes --moving  # x\n```\n\
                `kubectl -n order-service exec x` `systemctl stop order-service`";
    let found: Vec<_> = code(page).iter().filter_map(|piece| arguments(piece).map(str::to_owned)).collect();
    assert_eq!(found, ["cluster nodes --moving ", "ops foo --bar"]);
    assert_eq!(split(&found[1]), (vec!["ops", "foo"], vec!["--bar"]));
    assert!(help(&["ops", "foo"]).is_none() && help(&["cluster", "nodes"]).is_some());
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for page in PAGES.into_iter().chain(["ARCHITECTURE.md"]) {
        let folder = root().join(page);
        let folder = folder.parent().unwrap();
        for link in text(page).split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(page) } else { folder.join(file) };
            assert!(target.exists(), "{page}: {link}");
            if !anchor.is_empty() {
                let target = target.canonicalize().unwrap();
                let target = target.strip_prefix(root().canonicalize().unwrap()).unwrap();
                assert!(anchors(target.to_str().unwrap()).contains(anchor), "{page}: {link}");
            }
        }
    }
}
