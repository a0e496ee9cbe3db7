//! From an address to a proven connection.

use std::net::SocketAddr;
use std::time::Duration;

use heddle_meta::handshake::{Dialer, HandshakeError, Nonce, Party, Received, read_header};
use heddle_runtime::net::Socket;
use heddle_runtime::timeout;
use heddle_wire::{HEADER_BYTES, Header};
use uuid::Uuid;

use super::{Lane, PeerIdentity, Target};
use crate::limits::{CONNECT_TIMEOUT, DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use crate::resolve::resolve;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The name has no address.
    #[error("the name cannot be resolved: {0}")]
    Resolve(#[source] std::io::Error),
    /// The name has no address, and nothing says why.
    #[error("the name has no address")]
    NoAddress,
    /// Nobody answers there.
    #[error("{address}: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Somebody answers who does not belong there.
    #[error("{address}: {source}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        source: ShakeError,
    },
    /// It took too long altogether.
    #[error("not within {} s", DIAL_TIMEOUT.as_secs())]
    TimedOut,
}

/// Why a handshake came to no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShakeError {
    /// The connection ended.
    #[error("the connection ended during the handshake: {0}")]
    Io(#[from] std::io::Error),
    /// The other side is not who it should be.
    #[error(transparent)]
    Refused(#[from] HandshakeError),
    /// The other side is silent.
    #[error("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    TimedOut,
}

/// A nonce that nobody can guess: 244 random bits.
pub(super) fn nonce() -> Nonce {
    let mut nonce = Nonce::default();
    for half in nonce.chunks_exact_mut(16) {
        half.copy_from_slice(Uuid::new_v4().as_bytes());
    }
    nonce
}

/// Connects to a target, address by address, and finds out who is there.
pub(super) async fn dial(
    party: &Party,
    target: &Target,
    lane: Lane,
) -> Result<(Socket, PeerIdentity), DialError> {
    let dialed = timeout(DIAL_TIMEOUT, dial_each(party, target, lane)).await;
    dialed.unwrap_or(Err(DialError::TimedOut))
}

async fn dial_each(
    party: &Party,
    target: &Target,
    lane: Lane,
) -> Result<(Socket, PeerIdentity), DialError> {
    let addresses = resolve(&target.address).await.map_err(DialError::Resolve)?;
    let mut last = DialError::NoAddress;
    for address in addresses {
        last = match Socket::connect(address, CONNECT_TIMEOUT).await {
            Err(source) => DialError::Connect { address, source },
            Ok(socket) => {
                match within(HANDSHAKE_TIMEOUT, shake(party, target, lane, &socket)).await {
                    Ok(peer) => return Ok((socket, peer)),
                    Err(source) => DialError::Handshake { address, source },
                }
            }
        };
    }
    Err(last)
}

/// A handshake with an end.
pub(super) async fn within<T>(
    limit: Duration,
    shake: impl Future<Output = Result<T, ShakeError>>,
) -> Result<T, ShakeError> {
    timeout(limit, shake).await.unwrap_or(Err(ShakeError::TimedOut))
}

async fn shake(
    party: &Party,
    target: &Target,
    lane: Lane,
    socket: &Socket,
) -> Result<PeerIdentity, ShakeError> {
    let (dialer, hello) = Dialer::start(party.clone(), lane, target.node, nonce());
    socket.write_all(&hello).await?;
    let challenge = Message::read(socket).await?;
    let (proving, proof) = dialer.challenged(challenge.received())?;
    socket.write_all(&proof).await?;
    let accepted = Message::read(socket).await?;
    let end = proving.accepted(accepted.received())?;
    let address = socket.peer_address();
    Ok(PeerIdentity { node: end.node, boot: end.boot, core: end.core, lane, address })
}

/// A message of a handshake.
pub(super) struct Message {
    header: Header,
    body: Vec<u8>,
}

impl Message {
    /// Reads exactly one message: what follows belongs to the frames after the handshake.
    pub(super) async fn read(socket: &Socket) -> Result<Self, ShakeError> {
        let mut head = [0; HEADER_BYTES];
        socket.read_exact(&mut head).await?;
        let header = read_header(&head)?;
        let mut body = vec![0; header.body_length as usize];
        socket.read_exact(&mut body).await?;
        Ok(Self { header, body })
    }

    pub(super) fn received(&self) -> Received<'_> {
        Received { header: self.header, body: &self.body }
    }
}
