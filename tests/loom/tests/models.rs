//! The models hold, and each order that the driver asks for is needed.

use vtd_loom::{MODELS, Model, check, sites};

/// Interruptions in one run: fewer where a short test was asked for (`VTD_SCALE` in per cent), more where a long one was.
fn interruptions() -> usize {
    match std::env::var("VTD_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(100u32) {
        ..100 => 2,
        100 => 3,
        101.. => 4,
    }
}

/// Enough for what goes wrong to go wrong.
const FEW: usize = 2;

fn model(name: &str) -> &'static Model {
    MODELS.iter().find(|m| m.name == name).unwrap()
}

fn holds(name: &str) {
    let runs = check(model(name), None, interruptions()).unwrap();
    println!("{name}: {runs} runs");
    assert!(runs > 1, "{runs}");
}

/// What goes wrong without an order is what the models say, and not that they never end.
fn needs_each_order(name: &str) {
    for site in sites(model(name)) {
        match check(model(name), Some(&site), FEW) {
            Err(why) => assert!(["see", "fetched"].iter().any(|word| why.contains(word)), "{site}: {why}"),
            Ok(runs) => panic!("{site} can be relaxed: {runs} runs"),
        }
    }
}

#[test]
fn a_ring_that_wraps_is_understood() {
    holds("ring");
}

#[test]
fn each_order_of_the_ring_is_needed() {
    needs_each_order("ring");
}

#[test]
fn two_submitters_and_a_unit_understand_each_other() {
    holds("queue");
}

#[test]
fn each_order_of_the_queue_is_needed() {
    needs_each_order("queue");
}

#[test]
fn a_turn_follows_the_one_before() {
    holds("turn");
}

#[test]
fn each_order_of_the_turn_is_needed() {
    needs_each_order("turn");
}
