//! `phash2` against Erlang: every line of the project's vectors, and of those that go beyond them.
//!
//! Both files were made with Erlang/OTP 25. Their columns: kind, term, `phash2(term)`, range, `phash2(term, range)`.

use std::num::NonZeroU32;

use kafka_batcher_core::partitioner::{
    Assigner, ErlangTerm, PartitionFn, PartitionInput, PartitionKey, Phash2, Sticky, TopicLoad,
};

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd hex: {text}");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// Checks every line; how many there were of binaries, integers and atoms.
fn check(vectors: &str, atom_text: impl Fn(&str) -> String) -> (usize, usize, usize) {
    let (mut binaries, mut integers, mut atoms) = (0, 0, 0);
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [kind, text, hash, range, reduced] = fields[..] else { panic!("{line}") };
        let (bytes, name);
        let term = match kind {
            "b" => {
                binaries += 1;
                bytes = unhex(text);
                ErlangTerm::Binary(&bytes)
            }
            "i" => {
                integers += 1;
                ErlangTerm::Integer(text.parse().expect("an integer"))
            }
            "a" => {
                atoms += 1;
                name = atom_text(text);
                ErlangTerm::Atom(&name)
            }
            other => panic!("unknown kind {other}"),
        };
        assert_eq!(term.phash2(), hash.parse::<u32>().expect("a number"), "phash2/1 of {line}");
        let range: NonZeroU32 = range.parse().expect("a range");
        assert_eq!(term.phash2_in(range), reduced.parse::<u32>().expect("a number"), "phash2/2 of {line}");
    }
    (binaries, integers, atoms)
}

#[test]
fn every_vector_of_the_project_is_met() {
    let vectors = include_str!("../../data/phash2-vectors.txt");
    assert_eq!(check(vectors, str::to_owned), (1_507, 3_011, 5));
}

#[test]
fn big_integers_unusual_atoms_and_block_edges_are_met() {
    let vectors = include_str!("fixtures/phash2-more-vectors.txt");
    let utf8 = |hex: &str| String::from_utf8(unhex(hex)).expect("an atom is UTF-8");
    assert_eq!(check(vectors, utf8), (68, 688, 11));
}

#[test]
fn the_strategy_puts_binary_keys_where_elixir_puts_it() {
    let assigner = Assigner::new(Phash2, Sticky::new(1_000_000, 1));
    let vectors = include_str!("../../data/phash2-vectors.txt");
    let mut checked = 0;
    for line in vectors.lines().filter(|line| line.starts_with("b ")) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, key, _, count, partition] = fields[..] else { panic!("{line}") };
        let count: u32 = count.parse().expect("a count");
        // Two lines reduce by more than any topic has.
        if count > 1_000_000 {
            continue;
        }
        let (key, topic) = (unhex(key), TopicLoad::new(count));
        let chosen = assigner.partition(&PartitionInput::new("t", Some(&key), None), &topic);
        assert_eq!(chosen.expect("a key has a place"), partition.parse::<i32>().expect("a number"), "{line}");
        checked += 1;
    }
    assert_eq!(checked, 1_505);
}

/// The seed's example: `:erlang.phash2(value["client_id"], count)`, where the JSON has a string or a number.
#[test]
fn a_json_field_lands_where_elixir_puts_it_as_string_and_as_number() {
    let by_field = PartitionFn::new(|event| {
        let field = event.value.unwrap_or_default();
        let number = std::str::from_utf8(field).ok().and_then(|text| text.parse().ok());
        let term = number.map_or(ErlangTerm::Binary(field), ErlangTerm::Integer);
        PartitionKey::Hash(term.hash())
    });
    let assigner = Assigner::new(by_field, Sticky::new(1_000_000, 1));
    let place = |value: &'static [u8], count| {
        let event = PartitionInput::new("t", None, Some(value));
        assigner.partition(&event, &TopicLoad::new(count)).expect("placed")
    };
    // Erlang/OTP 25: phash2(<<"SEA">>, 16), phash2(-1, 37), phash2(90071992547409931, 16).
    assert_eq!(place(b"SEA", 16), 10);
    assert_eq!(place(b"-1", 37), 11);
    assert_eq!(place(b"90071992547409931", 16), 4);
    assert_ne!(ErlangTerm::Integer(-1).hash(), ErlangTerm::Binary(b"-1").hash());
}
