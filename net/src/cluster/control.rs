//! What nodes say to each other about the cluster itself, over the control lane. The bodies are
//! JSON: they are few, small beside a definition, and grow with versions.

use heddle_meta::cluster::{NodeRecord, REQUEST_BYTES_MAX, Request, Word};
use heddle_meta::raft::Response;
use heddle_types::{ApiError, ClusterId, Epoch, ErrorCode, NodeId};
use heddle_wire::AlignedVec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Two nodes introduce themselves.
pub(super) const MEET: u16 = 0x0180;
/// A node asks to become part of the cluster.
pub(super) const JOIN: u16 = 0x0181;
/// A change for whoever leads.
pub(super) const PROPOSE: u16 = 0x0182;
/// How far the leader's state has come.
pub(super) const BARRIER: u16 = 0x0183;

/// Largest body: a change with room around it.
const BODY_BYTES_MAX: usize = REQUEST_BYTES_MAX + (64 << 10);

/// A node introduces itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Introduction {
    pub(super) record: NodeRecord,
    /// The cluster it belongs to, as far as it knows.
    #[serde(default)]
    pub(super) cluster: Option<ClusterId>,
    /// Does it belong to a cluster?
    pub(super) is_member: bool,
    /// What it has promised while it does not.
    pub(super) word: Word,
    /// Who leads, as far as it knows.
    pub(super) leader: Option<NodeId>,
}

/// A node asks to become part of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JoinRequest {
    pub(super) change: Request,
}

/// A change for whoever leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Proposal {
    pub(super) change: Request,
}

/// What became of a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// It was applied, in this epoch.
    Done(Epoch),
    /// The state refused it.
    Refused(ApiError),
    /// The node does not lead and nothing was proposed; perhaps this one does.
    Elsewhere(Option<NodeId>),
    /// Nobody knows whether it will be applied: the same change may be proposed again.
    Unknown,
}

impl From<Response> for Verdict {
    fn from(response: Response) -> Self {
        match response {
            Response::Done(outcome) => Self::Done(outcome.epoch()),
            Response::Refused(error) => Self::Refused(error.into()),
            Response::Nothing => Self::Unknown,
        }
    }
}

/// The leader's state had come so far when it was asked, and it still led then.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Reached {
    /// Everything acknowledged by then is in this epoch.
    Epoch(Epoch),
    /// The node does not lead.
    Elsewhere(Option<NodeId>),
}

pub(super) fn encode<M: Serialize>(message: &M) -> AlignedVec<16> {
    let bytes = serde_json::to_vec(message).expect("keys are strings or numbers");
    let mut body = AlignedVec::with_capacity(bytes.len());
    body.extend_from_slice(&bytes);
    body
}

/// Errors: `TooLarge`, `Protocol`.
pub(super) fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, ApiError> {
    if body.len() > BODY_BYTES_MAX {
        let found = format!("a control message of {} bytes", body.len());
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            found,
            format!("at most {BODY_BYTES_MAX} bytes"),
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(ErrorCode::Protocol, error.to_string(), "a control message of this version")
    })
}
