//! The plans by which a server carries out what it is asked, as it logs them itself: of the very statements a store
//! sends, with the settings of its sessions.

use serde_json::Value;

use super::postgres::PgServer;

/// What a server has to be started with, and what it is to write ahead of each line of its log.
pub const SETTINGS: &[(&str, &str)] = &[
    ("session_preload_libraries", "auto_explain"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_analyze", "on"),
    ("auto_explain.log_buffers", "on"),
    ("auto_explain.log_timing", "off"),
    ("auto_explain.log_verbose", "off"),
    ("auto_explain.log_format", "json"),
    ("log_line_prefix", "[%a] "),
];

/// One statement that was carried out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who sent it.
    pub application: String,
    /// Its text.
    pub sql: String,
    root: Value,
}

impl Plan {
    /// The plans in the log of a server behind this place, in the order in which the statements ended, and the place
    /// behind the last of them.
    pub fn behind(server: &PgServer, mut place: usize) -> (Vec<Self>, usize) {
        let log = server.log();
        let mut found = Vec::new();
        let mut rest = log.get(place..).unwrap_or_default();
        while let Some((line, after)) = rest.split_once('\n') {
            rest = after;
            let Some((application, words)) =
                line.strip_prefix('[').and_then(|line| line.split_once("] LOG:  "))
            else {
                continue;
            };
            if !(words.starts_with("duration: ") && words.ends_with(" plan:")) {
                continue;
            }
            let mut json = String::new();
            while let Some((line, after)) = rest.strip_prefix('\t').and_then(|rest| rest.split_once('\n')) {
                json.push_str(line);
                rest = after;
            }
            // One that is just being written is found the next time.
            let Ok(mut told) = serde_json::from_str::<Value>(&json) else { break };
            let sql = told["Query Text"].as_str().unwrap().to_owned();
            found.push(Self { application: application.to_owned(), sql, root: told["Plan"].take() });
            place = log.len() - rest.len();
        }
        (found, place)
    }

    /// Its nodes, each before those below it.
    pub fn nodes(&self) -> Vec<Node<'_>> {
        let mut all = Vec::new();
        add(&self.root, 0, &mut all);
        all
    }

    /// The scans of one table.
    pub fn scans(&self, table: &str) -> Vec<Node<'_>> {
        self.nodes()
            .into_iter()
            .filter(|node| node.is_scan() && node.text("Relation Name") == table)
            .collect()
    }

    /// How many rows of one table were looked at.
    pub fn rows(&self, table: &str) -> u64 {
        self.scans(table).iter().map(Node::rows).sum()
    }
}

fn add<'p>(value: &'p Value, depth: usize, all: &mut Vec<Node<'p>>) {
    all.push(Node { value, depth });
    for below in value["Plans"].as_array().into_iter().flatten() {
        add(below, depth + 1, all);
    }
}

/// One node of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Node<'p> {
    value: &'p Value,
    depth: usize,
}

impl<'p> Node<'p> {
    /// One of its properties; empty when it has none of that name.
    pub fn text(&self, name: &str) -> &'p str {
        self.value[name].as_str().unwrap_or_default()
    }

    /// What it does.
    pub fn kind(&self) -> &'p str {
        self.text("Node Type")
    }

    /// Whether it reads a table.
    pub fn is_scan(&self) -> bool {
        self.kind().ends_with("Scan") && !self.text("Relation Name").is_empty()
    }

    /// Rows that came out of it, and rows that it threw away.
    pub fn rows(&self) -> u64 {
        // Averages over the loops, and with fractions in later versions.
        let removed = self.number("Rows Removed by Filter") + self.number("Rows Removed by Index Recheck");
        ((self.number("Actual Rows") + removed) * self.number("Actual Loops")).round() as u64
    }

    /// How often it was carried out.
    pub fn times(&self) -> u64 {
        self.number("Actual Loops") as u64
    }

    /// Pages that it looked at, without the nodes below it.
    pub fn pages(&self) -> u64 {
        let all = |value: &Value| {
            let number = |name: &str| value[name].as_u64().unwrap_or(0);
            number("Shared Hit Blocks") + number("Shared Read Blocks")
        };
        let below: u64 = self.value["Plans"].as_array().into_iter().flatten().map(all).sum();
        all(self.value).saturating_sub(below)
    }

    fn number(&self, name: &str) -> f64 {
        self.value[name].as_f64().unwrap_or(0.0)
    }
}

/// For people.
impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for node in self.nodes() {
            write!(f, "{:indent$}{}", "", node.kind(), indent = 2 * node.depth)?;
            for (before, name) in [
                (" ", "Operation"),
                (" using ", "Index Name"),
                (" on ", "Relation Name"),
                (" of ", "CTE Name"),
                (" of ", "Function Name"),
                (" as ", "Subplan Name"),
                ("; condition ", "Index Cond"),
                ("; filter ", "Filter"),
                ("; filter ", "Join Filter"),
            ] {
                if !node.text(name).is_empty() {
                    write!(f, "{before}{}", node.text(name))?;
                }
            }
            writeln!(f, "; {} rows, {} pages", node.rows(), node.pages())?;
        }
        Ok(())
    }
}
