//! ApiVersions (key 18, KIP-35): which requests a broker understands, in which versions.
//!
//! Asked in version 3 first. A broker that does not know version 3 answers in version 0 with 35 UNSUPPORTED_VERSION
//! (KIP-511), and is asked again in version 0.

use super::{Api, WireError, finish_request, open_answer, start_request};
use crate::error_code::ErrorCode;

/// What a broker understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApiVersions {
    ranges: [Option<(i16, i16)>; Api::ALL.len()],
}

impl ApiVersions {
    /// The broker's oldest and newest version of `api`; `None`: it does not know it.
    pub fn offered(&self, api: Api) -> Option<(i16, i16)> {
        let at = Api::ALL.iter().position(|a| *a == api)?;
        self.ranges.get(at).copied().flatten()
    }

    /// The newest version of `api` that both sides speak.
    pub fn common(&self, api: Api) -> Option<i16> {
        let (oldest, newest) = self.offered(api)?;
        let (our_oldest, our_newest) = api.versions();
        let common = newest.min(our_newest);
        (common >= oldest.max(our_oldest)).then_some(common)
    }
}

/// The question, in version 0 or 3.
pub fn api_versions_request(
    version: i16,
    correlation: i32,
    client_id: &str,
    software_version: &str,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    let mut writer = start_request(&mut out, Api::ApiVersions, version, correlation, client_id);
    if version >= 3 {
        writer.string("kafka-batcher");
        writer.string(software_version);
        writer.tags();
    }
    finish_request(&mut out);
    out
}

/// Reads the answer.
///
/// # Errors
/// If the bytes are not one. The broker's own error comes as the first part of the value.
pub fn read_api_versions(answer: &[u8], version: i16) -> Result<(ErrorCode, ApiVersions), WireError> {
    let mut reader = open_answer(answer, Api::ApiVersions, version)?;
    let code = ErrorCode(reader.i16("error code")?);
    let mut versions = ApiVersions::default();
    if code == ErrorCode::UNSUPPORTED_VERSION {
        // In version 0 whatever was asked; nothing of it is needed to ask again.
        return Ok((code, versions));
    }
    for _ in 0..reader.array_len(6, "api keys")? {
        let (key, oldest) = (reader.i16("api key")?, reader.i16("oldest version")?);
        let newest = reader.i16("newest version")?;
        reader.skip_tags()?;
        let ours = Api::ALL.iter().zip(&mut versions.ranges).find(|(api, _)| api.key() == key);
        if let Some((_, range)) = ours {
            *range = Some((oldest, newest));
        }
    }
    Ok((code, versions))
}
