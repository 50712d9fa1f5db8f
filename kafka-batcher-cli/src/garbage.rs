//! Random and damaged lines for what reads them: the function that the fuzzer calls (`fuzz/`), so that it runs with every change.

use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../fuzz/src/command.rs"]
mod fuzz;

/// What lines of JSON are made of, in no order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[\\[\\]{}:,\"\\\\ ]",
        "\"(key|a|b|\\PC{0,4})\" ?:? ?",
        "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,3})?",
        "true|false|null",
        "\"\\\\u[0-9a-f]{2,4}\"",
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// A line that is JSON, but for surrogates without their other half.
fn json() -> impl Strategy<Value = String> {
    let name = "\"(key|a|b|\\\\u006bey|[a-z]{0,3})\"";
    let leaf = prop_oneof![
        "true|false|null|0|-7|1e5|2\\.50",
        "\"[^\"\\\\\\x00-\\x1f]{0,6}(\\\\u00e9|\\\\ud83d|\\\\n)?\"",
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        let member = (name, inner.clone()).prop_map(|(name, value)| format!("{name}: {value}"));
        prop_oneof![
            vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            vec(member, 0..4).prop_map(|all| format!("{{{}}}", all.join(" ,"))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_lines_are_they_are_found_and_read_as_serde_json_reads_them(
        lines in vec(prop_oneof![2 => json(), 1 => pieces()], 0..6),
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\n\r\n")],
        limit in prop_oneof![Just(255u8), any::<u8>()],
        step: u8,
        damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut input = [&[limit, step][..], lines.join(end).as_bytes()].concat();
        if let Some((at, byte)) = damage {
            let at = at.index(input.len());
            input[at] = byte;
        }
        fuzz::lines(&input);
    }
}
