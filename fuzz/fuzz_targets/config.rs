//! A configuration file: mistakes or settings, and what is in effect is read back the same.
#![no_main]

use kafka_batcher::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::from_toml(text, "fuzz.toml").resolve() {
        Ok(resolved) => {
            let shown = resolved.show();
            let again = Config::from_toml(&shown, "shown.toml").resolve().expect("what is shown can be read");
            assert_eq!(again.settings, resolved.settings);
            assert_eq!(again.spool, resolved.spool);
        }
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
});
