//! HTTP on the meta core: metrics and health.

mod io;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::future::{Either, select};
use heddle_runtime::net::{Accepted, Listener, Socket, SocketStream};
use heddle_runtime::{Queue, sleep, spawn, timeout, yield_if_needed};
use heddle_types::Clock;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::core::Core;
use crate::limits::{ACCEPT_PAUSE, HTTP_BUFFER_BYTES, HTTP_CONNECTIONS_MAX, HTTP_WATCH_INTERVAL};
use crate::metrics;
use crate::shared::Phase;
use crate::status;
use io::{HyperIo, Pace};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The whole answer to a connection above the limit.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n";
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");

/// A body that is all there.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Accepts HTTP connections for as long as the core runs.
pub(crate) async fn accept(core: Rc<Core>, listener: Listener) {
    let open = Rc::new(Cell::new(0));
    loop {
        yield_if_needed().await;
        let accepted = listener.accept().await.and_then(Accepted::into_socket);
        let socket = match accepted {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "http: accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if open.get() >= HTTP_CONNECTIONS_MAX {
            spawn(Queue::Control, refuse(socket));
            continue;
        }
        open.set(open.get() + 1);
        let (core, open) = (Rc::clone(&core), Rc::clone(&open));
        spawn(Queue::Control, async move {
            serve(core, socket).await;
            open.set(open.get() - 1);
        });
    }
}

/// Says that there are too many connections, and waits a moment for the peer to have read it.
async fn refuse(socket: Socket) {
    let told = async {
        socket.write_all(TOO_MANY).await?;
        socket.shutdown(Shutdown::Write)?;
        // Closing with unread input would reset the connection and lose the answer.
        let mut unread = [0; 1_024];
        while socket.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whether the peer has heard it changes nothing.
    let _ = timeout(HTTP_WATCH_INTERVAL, told).await;
}

async fn serve(core: Rc<Core>, socket: Socket) {
    let stream = SocketStream { socket: Rc::new(socket) };
    let clock = core.clock;
    let pace = Rc::new(Pace::new(clock.monotonic_ns()));
    let io = HyperIo { stream, pace: Rc::clone(&pace) };
    let answering = Rc::clone(&pace);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (core, pace) = (Rc::clone(&core), Rc::clone(&answering));
        async move {
            pace.answer_began();
            let response = answer(&core, &request).await;
            pace.answer_ended();
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // A client may end its side once it has asked and still reads the answer.
    builder.half_close(true).header_read_timeout(None).max_buf_size(HTTP_BUFFER_BYTES);
    let served = std::pin::pin!(builder.serve_connection(io, service));
    let stalled = std::pin::pin!(async {
        while !pace.is_overdue(clock.monotonic_ns()) {
            sleep(HTTP_WATCH_INTERVAL).await;
        }
    });
    match select(served, stalled).await {
        Either::Left((Err(error), _)) => tracing::debug!(%error, "http: connection ended"),
        Either::Left((Ok(()), _)) => {}
        Either::Right(((), _)) => tracing::debug!("http: connection stalled"),
    }
}

async fn answer(core: &Rc<Core>, request: &Request<Incoming>) -> Response<Whole> {
    if *request.method() != Method::GET && *request.method() != Method::HEAD {
        return whole(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => match status::collect(core).await {
            Ok(report) => whole(StatusCode::OK, PROMETHEUS, metrics::render(&report)),
            Err(error) => whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n")),
        },
        "/v1/.well-known/live" => whole(StatusCode::OK, TEXT, "live\n".to_owned()),
        "/v1/.well-known/ready" => ready(core).await,
        path => whole(StatusCode::NOT_FOUND, TEXT, format!("no page at {path}\n")),
    }
}

/// `ready`; while the node starts a line a shard that says how far it is; once it serves a line a
/// shard that it does not serve, because its image was damaged.
async fn ready(core: &Rc<Core>) -> Response<Whole> {
    let phase = core.phase();
    let mut text = format!("{}\n", if phase == Phase::Serving { "ready" } else { phase.name() });
    if phase != Phase::Draining {
        match status::collect(core).await {
            Ok(report) => text.push_str(&status::waiting(&report)),
            Err(error) => text.push_str(&format!("{error}\n")),
        }
    }
    let code = match phase {
        Phase::Serving => StatusCode::OK,
        Phase::Starting | Phase::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    whole(code, TEXT, text)
}

fn whole(status: StatusCode, content_type: HeaderValue, text: String) -> Response<Whole> {
    let mut response = Response::new(Whole(Some(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
