//! Links over real sockets: each node is a thread with an executor of its own.

mod calls;
mod hostile;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use heddle_meta::handshake::{End, LinkKey, Party};
use heddle_runtime::run_single;
use heddle_types::{ApiError, ErrorCode, NodeId};
use heddle_wire::AlignedVec;
use heddle_wire::kind::REPLY_BIT;

use super::*;

/// Answered with the body backwards.
const ECHO: u16 = 0x0110;
/// Never answered.
const HOLD: u16 = 0x0111;
/// Answered with an error.
const FAIL: u16 = 0x0112;
/// Answered with who asked, and the budget that came with the call.
const WHO: u16 = 0x0113;

/// Far more than anything here takes: a busy machine is no failure.
const PATIENCE: Duration = Duration::from_secs(60);

const SECRET: &str = "secret of the tests";

fn party(number: u64, secret: &str) -> Party {
    Party {
        end: End { node: NodeId::from(number), boot: 3, core: 1 },
        cluster: "tests".to_owned(),
        cluster_id: None,
        key: LinkKey::from_secret(secret.as_bytes()),
    }
}

fn body(length: usize) -> AlignedVec<16> {
    let mut body = AlignedVec::with_capacity(length);
    (0..length).for_each(|index| body.push((index * 7 + index / 251) as u8));
    body
}

async fn answer(call: PeerCall) -> Result<(u16, AlignedVec<16>), ApiError> {
    let kind = call.header.type_number;
    let mut reply = AlignedVec::new();
    match kind {
        ECHO => call.body.iter().rev().for_each(|byte| reply.push(*byte)),
        HOLD => std::future::pending().await,
        WHO => {
            let PeerIdentity { node, boot, core, lane, .. } = call.peer;
            let budget = call.header.deadline_us;
            let text = format!("{node} boot {boot} core {core} {}\n{budget}", lane.name());
            reply.extend_from_slice(text.as_bytes());
        }
        FAIL => {
            return Err(ApiError::new(ErrorCode::UnknownCollection, "no \"Docs\"", "another"));
        }
        other => {
            let error = heddle_wire::MessageError::UnknownType { number: other };
            return Err(error.into());
        }
    }
    Ok((kind | REPLY_BIT, reply))
}

fn handler() -> Handler {
    Rc::new(|call| answer(call).boxed_local())
}

/// What a node in a thread is told.
enum Order {
    Drain,
    /// Ends connections as the death of a process does.
    Kill,
    Report(oneshot::Sender<PeerReport>),
    Call(Target, oneshot::Sender<()>),
}

/// A node that answers, in a thread of its own.
struct Node {
    number: u64,
    address: SocketAddr,
    orders: futures::channel::mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    fn start(number: u64, secret: &'static str) -> Self {
        Self::start_at(number, secret, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn start_at(number: u64, secret: &'static str, address: SocketAddr) -> Self {
        let (sender, receiver) = mpsc::channel();
        let (orders, inbox) = futures::channel::mpsc::unbounded();
        #[expect(clippy::disallowed_methods, reason = "a node of its own, outside of any core")]
        let thread = std::thread::spawn(move || {
            run_single(async move {
                let links = Links::new(party(number, secret));
                let address = links.listen(address, handler()).unwrap();
                sender.send(address).unwrap();
                obey(&links, inbox).await;
            })
            .unwrap();
        });
        let address = receiver.recv().expect("the node listens");
        Self { number, address, orders, thread: Some(thread) }
    }

    fn target(&self) -> Target {
        Target { node: Some(NodeId::from(self.number)), address: self.address.to_string() }
    }

    fn order(&self, order: Order) {
        self.orders.unbounded_send(order).expect("the node runs");
    }

    /// Lets the node ask another one.
    async fn call(&self, target: Target) {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Call(target, sender));
        receiver.await.expect("the node runs");
    }

    async fn report(&self) -> PeerReport {
        let (sender, receiver) = oneshot::channel();
        self.order(Order::Report(sender));
        receiver.await.expect("the node runs")
    }
}

async fn obey(links: &Rc<Links>, mut inbox: futures::channel::mpsc::UnboundedReceiver<Order>) {
    use futures::StreamExt;
    while let Some(order) = inbox.next().await {
        match order {
            Order::Drain => links.drain(),
            Order::Kill => {
                links.drain();
                links.cut_all();
            }
            Order::Report(sender) => drop(sender.send(links.report())),
            Order::Call(target, sender) => {
                call(links, &target, ECHO).await.unwrap();
                let _ = sender.send(());
            }
        }
    }
    links.drain();
    links.cut_all();
}

impl Drop for Node {
    fn drop(&mut self) {
        self.orders.close_channel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the node has failed");
        }
    }
}

/// Runs a story on a core with links of node 1.
fn with_links(secret: &str, story: impl AsyncFnOnce(Rc<Links>)) {
    run_single(async {
        let links = Links::new(party(1, secret));
        story(Rc::clone(&links)).await;
        links.cut_all();
    })
    .expect("an executor");
}

async fn call(links: &Rc<Links>, target: &Target, kind: u16) -> Result<Answer, ApiError> {
    links.call(target, Lane::Data, kind, body(100), PATIENCE).await
}
