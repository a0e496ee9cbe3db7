//! A blocking client that speaks frames and can break every rule of them.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::Duration;

use heddle_types::ApiError;
use heddle_wire::message::{ErrorReply, Request};
use heddle_wire::{AlignedVec, FrameKind, HEADER_BYTES, Header, decode, encode_request, header};

/// Longest wait for anything; only a hanging server is ever this slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct RawClient {
    pub(crate) stream: TcpStream,
}

impl RawClient {
    pub(crate) fn connect(address: (IpAddr, u16)) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send<M: Request>(&mut self, request_id: u64, message: &M) {
        self.send_bytes(&encode_request(request_id, 0, message).unwrap());
    }

    /// The next frame; `None` when the server has closed.
    pub(crate) fn receive(&mut self) -> Option<(Header, AlignedVec<16>)> {
        let mut bytes = [0; HEADER_BYTES];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("no frame: {error}"),
        }
        let header = header::parse(&bytes, 64 << 20).unwrap();
        let mut body = AlignedVec::new();
        body.resize(header.body_length as usize, 0);
        self.stream.read_exact(&mut body).unwrap();
        header.check_body(&body).unwrap();
        Some((header, body))
    }

    /// The next frame, which must be an error.
    pub(crate) fn receive_error(&mut self) -> (u64, ApiError) {
        let (header, body) = self.receive().expect("the server answers before it closes");
        assert_eq!(header.kind(), FrameKind::Error, "{header:?}");
        (header.request_id, decode::<ErrorReply>(&body).unwrap().into())
    }

    /// One request, one reply.
    pub(crate) fn call<M: Request>(&mut self, message: &M) -> Result<M::Reply, ApiError> {
        self.send(7, message);
        let (header, body) = self.receive().expect("the server answers");
        assert_eq!(header.request_id, 7);
        match header.kind() {
            FrameKind::Reply(kind) => {
                assert_eq!(kind, M::TYPE);
                Ok(decode::<M::Reply>(&body).unwrap())
            }
            FrameKind::Error => Err(decode::<ErrorReply>(&body).unwrap().into()),
            other => panic!("{other:?}"),
        }
    }

    /// The server closes without another word.
    pub(crate) fn expect_close(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes before the close", rest.len());
    }

    pub(crate) fn finish_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}
