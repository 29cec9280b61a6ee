//! Metrics of real nodes: those of the catalog and no others, fit for Prometheus, and true.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use order_service::clients::sim::catalogue::load_user;
use order_service::proto::order as pb;
use order_service::telemetry::catalog::{self, Kind, Of, Values};

use crate::harness::api::by_id;
use crate::harness::cluster::{Cluster, Plan, by_default};
use crate::harness::http::{address_of, get};
use crate::harness::node::sample_order;
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::wait::eventually;

const PROMTOOL_MISSING: &str = "promtool is missing: apt-get install -y --no-install-recommends prometheus";

/// What a node tells.
struct Told {
    text: String,
    /// By name: what it is.
    kinds: BTreeMap<String, String>,
    /// Name, labels, value; of histograms and summaries those of their parts.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Told {
    async fn by(ops: SocketAddr) -> Self {
        let answer = get(ops, "/metrics").await;
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
        let text = answer.body;
        let mut kinds = BTreeMap::new();
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(text.contains(&format!("# HELP {name} ")), "{name} says nothing of what it means");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
            } else if !line.starts_with('#') {
                samples.push(sample(line));
            }
        }
        Self { text, kinds, samples }
    }

    /// The sum of all series with this name and these labels; none where there is no such series.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |has: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| has.get(*label).is_some_and(|has| has == value))
        };
        let found = self.samples.iter().filter(|(found, has, _)| found == name && fits(has));
        let values: Vec<f64> = found.map(|(_, _, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Has exactly the metrics of these parts, with the labels and values that the catalog tells.
    fn assert_is(&self, parts: &[Of]) {
        let expected: BTreeMap<&str, &catalog::Metric> = catalog::all()
            .filter(|metric| parts.contains(&metric.of))
            .map(|metric| (metric.name, metric))
            .collect();
        let told: BTreeSet<&str> = self.kinds.keys().map(String::as_str).collect();
        let missing: Vec<_> = expected.keys().filter(|name| !told.contains(**name)).collect();
        let unknown: Vec<_> = told.iter().filter(|name| !expected.contains_key(**name)).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "missing: {missing:?}; not in the catalog: {unknown:?}"
        );
        for (name, kind) in &self.kinds {
            let expected = match expected[name.as_str()].kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
                Kind::Summary => "summary",
            };
            assert_eq!(kind, expected, "{name}");
        }
        for (name, labels, value) in &self.samples {
            let (metric, own) = metric_of(&expected, name);
            for (label, value) in labels.iter().filter(|(label, _)| label.as_str() != own) {
                let known = metric.labels.iter().find(|(known, _)| known == label);
                let Some((_, values)) = known else { panic!("{name} has a label {label}") };
                match values {
                    Values::Of(values) => {
                        assert!(values.contains(&value.as_str()), "{name}: {label}={value}")
                    }
                    Values::Few(_) => assert!(value.len() <= 40, "{name}: {label}={value}"),
                }
            }
            assert_eq!(
                labels.keys().filter(|label| label.as_str() != own).count(),
                metric.labels.len(),
                "{name}"
            );
            assert!(value.is_finite() && *value >= 0.0, "{name} is {value}");
        }
    }

    /// What Prometheus's own tool has to say.
    fn assert_is_for_prometheus(&self) {
        let mut tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect(PROMTOOL_MISSING);
        tool.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        let output = tool.wait_with_output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}

/// The metric that a sample belongs to, and the label that its parts have of their own.
fn metric_of<'a>(
    known: &BTreeMap<&str, &'a catalog::Metric>,
    sample: &str,
) -> (&'a catalog::Metric, &'static str) {
    let whole = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end));
    let metric = known.get(sample).or_else(|| known.get(whole?));
    let metric = metric.unwrap_or_else(|| panic!("{sample} is of no metric"));
    let own = match metric.kind {
        Kind::Histogram(_) => "le",
        Kind::Summary => "quantile",
        Kind::Counter | Kind::Gauge => "",
    };
    (metric, own)
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let Some((name, labels)) = series.split_once('{') else {
        return (series.to_owned(), BTreeMap::new(), value);
    };
    let labels = labels.strip_suffix("\"}").unwrap().split("\",").map(|label| {
        let (name, value) = label.split_once("=\"").unwrap();
        (name.to_owned(), value.to_owned())
    });
    (name.to_owned(), labels.collect(), value)
}

#[tokio::test]
async fn a_node_alone_tells_the_metrics_of_the_catalog_and_no_others() {
    let simulate = Simulate::start().await;
    // Nobody is there; its metrics are all the same.
    let settings = [
        ("ORDER__RATE_LIMITS__STORE", "redis://127.0.0.1:1/"),
        ("ORDER__CACHE__URL", "redis://127.0.0.1:1/"),
        ("ORDER__TRACING__OTLP_ENDPOINT", "http://127.0.0.1:1"),
    ];
    let node = NodeProcess::start(&simulate, &settings).await;
    let ops = address_of(&node.ops_url());
    let before = Told::by(ops).await;
    // From the start, so that the first event is seen as one.
    for (name, labels) in [
        ("orders_created_total", [].as_slice()),
        ("orders_cancelled_total", &[("reason", "OUT_OF_STOCK")]),
        ("order_sagas_settled_total", &[("saga", "CREATE"), ("outcome", "failed")]),
        (
            "order_collaborator_seconds_count",
            &[("service", "payment"), ("method", "Charge"), ("outcome", "ok")],
        ),
        ("order_grpc_seconds_count", &[("method", "CreateOrder"), ("code", "OK")]),
    ] {
        assert_eq!(before.value(name, labels), Some(0.0), "{name}");
    }
    node.client().create_order(sample_order()).await.unwrap();
    let told = Told::by(ops).await;
    told.assert_is(&[Of::Node, Of::Redis, Of::Copies, Of::Spans]);
    told.assert_is_for_prometheus();
    assert_eq!(told.value("order_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let started = told.value("process_start_time_seconds", &[]).unwrap();
    assert!((now - started).abs() < 600.0, "started at {started}, and now it is {now}");
    assert!(told.value("process_cpu_seconds_total", &[]).unwrap() > 0.0);
    assert!(told.value("order_runtime_busy_seconds_total", &[]).unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_cluster_tell_the_metrics_of_the_catalog_and_no_others() {
    let mut cluster = Cluster::start(Plan { settings: by_default(), ..Plan::of(2) }).await;
    cluster.balanced(&[0, 1]).await;
    // Each node has an order in a currency once every order is asked of one and owned by any.
    let mut user = 0;
    for number in 0..2 {
        let ops = address_of(&cluster.ops_url(number));
        eventually("an order of this node's own", async || {
            user += 1;
            let user_id = load_user(user).0.to_string();
            let request = pb::CreateOrderRequest { user_id, coupon_code: String::new(), ..sample_order() };
            cluster.client(number).create_order(request).await.unwrap();
            Told::by(ops).await.value("order_value_count", &[]).filter(|count| *count > 0.0)
        })
        .await;
        let told = Told::by(ops).await;
        told.assert_is(&[Of::Node, Of::Postgres, Of::Cluster]);
        told.assert_is_for_prometheus();
        assert_eq!(told.value("order_cluster_nodes", &[]), Some(2.0));
        assert_eq!(told.value("order_cluster_slots_unowned", &[]), Some(0.0));
        assert!(told.value("order_cluster_lease_left_seconds", &[]).unwrap() > 0.0);
        assert_eq!(told.value("order_store_connections_limit", &[("pool", "read")]), Some(4.0));
    }
    let slots = |told: &Told| told.value("order_cluster_slots", &[]).unwrap();
    let (one, two) =
        (Told::by(address_of(&cluster.ops_url(0))).await, Told::by(address_of(&cluster.ops_url(1))).await);
    assert_eq!(slots(&one) + slots(&two), 4096.0);
    cluster.stop(0).await;
    cluster.stop(1).await;
}

#[tokio::test]
async fn what_happens_to_orders_is_counted() {
    let simulate = Simulate::start().await;
    let settings = [
        ("ORDER__OPS__BACKLOG_EVERY", "100ms"),
        ("ORDER__OPS__STUCK_AFTER", "1s"),
        ("ORDER__SAGA__FORWARD_TRIES", "1000"),
    ];
    let node = NodeProcess::start(&simulate, &settings).await;
    let ops = address_of(&node.ops_url());
    let create = async || node.client().create_order(sample_order()).await.unwrap().into_inner();
    let confirmed = async |id: &str| {
        eventually("a confirmed order", async || {
            let order = node.client().get_order(by_id(id)).await.unwrap().into_inner();
            (order.status() == pb::OrderStatus::Confirmed).then_some(order)
        })
        .await
    };
    let (kept, gone) = (create().await, create().await);
    let order = confirmed(&kept.id).await;
    confirmed(&gone.id).await;
    eventually("both sagas' end", async || {
        let settled = Told::by(ops).await.value("order_sagas_settled_total", &[("saga", "CREATE")]);
        (settled == Some(2.0)).then_some(())
    })
    .await;
    for status in [pb::OrderStatus::Processing, pb::OrderStatus::Shipped, pb::OrderStatus::Delivered] {
        let request =
            pb::UpdateOrderStatusRequest { id: kept.id.clone(), status: status.into(), ..Default::default() };
        node.client().update_order_status(request).await.unwrap();
    }
    let request = pb::CancelOrderRequest { id: gone.id.clone(), ..Default::default() };
    node.client().cancel_order(request).await.unwrap();
    let told = eventually("the end of the cancelled order", async || {
        let told = Told::by(ops).await;
        let labels = [("reason", "CUSTOMER_REQUEST")];
        (told.value("orders_cancelled_total", &labels) == Some(1.0)).then_some(told)
    })
    .await;
    assert_eq!(told.value("orders_created_total", &[]), Some(2.0));
    assert_eq!(told.value("orders_fulfilled_total", &[]), Some(1.0));
    assert_eq!(told.value("orders_cancelled_total", &[]), Some(1.0));
    let currency = [("currency", order.currency.as_str())];
    assert_eq!(told.value("order_value_count", &currency), Some(2.0));
    let total: f64 = order.total_amount.parse().unwrap();
    let sum = told.value("order_value_sum", &currency).unwrap();
    assert!((sum - 2.0 * total).abs() < 0.001, "{sum} of twice {total}");
    let step = |step, direction| {
        told.value(
            "order_saga_step_seconds_count",
            &[("step", step), ("direction", direction), ("outcome", "done")],
        )
    };
    assert_eq!((step("CHARGE", "FORWARD"), step("CHARGE", "BACKWARD")), (Some(2.0), Some(1.0)));
    let settled = |saga| told.value("order_sagas_settled_total", &[("saga", saga), ("outcome", "done")]);
    assert_eq!((settled("CREATE"), settled("FULFIL"), settled("CANCEL")), (Some(2.0), Some(1.0), Some(1.0)));
    let charged = [("service", "payment"), ("method", "Charge"), ("outcome", "ok")];
    assert_eq!(told.value("order_collaborator_seconds_count", &charged), Some(2.0));
    assert!(told.value("order_actor_activations_total", &[]).unwrap() >= 2.0);
    assert!(told.value("order_store_batch_size_bucket", &[("le", "1")]).unwrap() > 0.0);
    eventually("nothing unfinished", async || {
        (Told::by(ops).await.value("order_sagas_unfinished", &[]) == Some(0.0)).then_some(())
    })
    .await;

    // A payment service that is away leaves sagas behind.
    let away = order_service::proto::simulator::Faults {
        method: "payment.Charge".into(),
        unavailable_rate: 1.0,
        ..Default::default()
    };
    simulate.set_faults(vec![away]).await;
    create().await;
    eventually("a saga that is stuck", async || {
        let told = Told::by(ops).await;
        let count = |name: &str| told.value(name, &[]);
        (count("order_sagas_unfinished") == Some(1.0) && count("order_sagas_stuck") == Some(1.0))
            .then_some(())
    })
    .await;
}

/// All source files but the catalog, as one text.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("telemetry/catalog") {
            continue;
        }
        if path.is_dir() {
            all.push_str(&sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            // What tests count is no metric of a node.
            all.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
        }
    }
    all
}

/// Also those that are counted seldom: a node tells them only once they are.
#[test]
fn what_is_counted_is_in_the_catalog_and_what_is_in_the_catalog_is_counted() {
    let text = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let known: BTreeSet<&str> = catalog::all().map(|metric| metric.name).collect();
    let mut counted = BTreeSet::new();
    for what in ["counter!(", "gauge!(", "histogram!("] {
        for rest in text.split(what).skip(1) {
            let name = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            counted.extend(name);
        }
    }
    let unknown: Vec<_> = counted.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty() && counted.len() > 40, "not in the catalog: {unknown:?}");
    // Some are counted by way of a constant or a function.
    let never: Vec<_> = known.iter().filter(|name| !text.contains(&format!("\"{name}\""))).collect();
    assert!(never.is_empty(), "never counted: {never:?}");
}
