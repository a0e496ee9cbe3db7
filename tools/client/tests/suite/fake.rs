//! A server in this process that speaks the real protocol and answers what the test tells it to.
//!
//! It greets and gives its topology by itself; every other request waits for the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heddle_client::{Client, ClientError};
use heddle_types::{ApiError, ObjectId, RoutingTable, ShardId};
use heddle_wire::header::{HEADER_BYTES, Header, parse};
use heddle_wire::message::{
    HelloReply, ShardReplicas, TopologyCollection, TopologyNode, TopologyReplicasReply,
    TopologyReply, decode,
};
use heddle_wire::{AlignedVec, Body, FrameKind, MessageType, encode_error, encode_reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Requests of one connection that the server says it takes.
pub(crate) const REQUESTS_MAX: u32 = 4;

/// What the writer of a connection does next; `None` closes the connection.
type Outgoing = Option<Vec<u8>>;

/// A request that waits for the test.
pub(crate) struct Incoming {
    /// The data core whose port it came through; `None` = the common port.
    pub(crate) core: Option<usize>,
    pub(crate) header: Header,
    body: AlignedVec<16>,
    writer: mpsc::UnboundedSender<Outgoing>,
}

impl Incoming {
    pub(crate) fn kind(&self) -> MessageType {
        match self.header.kind() {
            FrameKind::Request(kind) => kind,
            other => panic!("a client sent {other:?}"),
        }
    }

    pub(crate) fn read<M: Body>(&self) -> M {
        decode::<M>(&self.body).expect("a client sends valid messages")
    }

    pub(crate) fn reply<M: Body>(&self, message: &M) {
        let frame = encode_reply(self.header.request_id, message).expect("replies are small");
        self.raw(&frame);
    }

    pub(crate) fn error(&self, error: &ApiError) {
        self.raw(&encode_error(self.header.request_id, error));
    }

    /// Sends any bytes.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        // A connection that is gone takes nothing, which is what the test wants then.
        let _ = self.writer.send(Some(bytes.to_vec()));
    }

    /// Closes the connection after what was sent on it.
    pub(crate) fn close(&self) {
        let _ = self.writer.send(None);
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicUsize,
    pub(crate) topologies: AtomicUsize,
}

/// The server; it ends with the runtime of its test.
pub(crate) struct FakeServer {
    pub(crate) address: String,
    pub(crate) counters: Arc<Counters>,
    requests: mpsc::UnboundedReceiver<Incoming>,
}

#[derive(Clone)]
struct Site {
    counters: Arc<Counters>,
    requests: mpsc::UnboundedSender<Incoming>,
    native_port: u16,
    core_ports: Vec<u16>,
}

/// Shards 100 and 101 at home on the first and last of `cores`.
fn shards(cores: usize) -> (Vec<u64>, Vec<u16>, Vec<u16>) {
    (vec![100, 101], vec![0, cores as u16 - 1], vec![0, 1, 1, 0])
}

/// The core where an object of the collection `Docs` is at home.
pub(crate) fn home_of(id: &ObjectId, cores: usize) -> usize {
    let (ids, homes, owners) = shards(cores);
    let owners = owners.iter().map(|owner| ShardId(ids[usize::from(*owner)])).collect();
    let table = RoutingTable::from_owners(owners).expect("there are owners");
    let shard = table.shard_of(id);
    let position = ids.iter().position(|id| ShardId(*id) == shard).expect("the shard exists");
    usize::from(homes[position])
}

impl Site {
    fn hello(&self) -> HelloReply {
        HelloReply {
            version: heddle_wire::VERSION,
            core: 0,
            core_count: self.core_ports.len() as u16,
            features: 0,
            node_id: [1; 16],
            node_name: "fake".to_owned(),
            server_version: "0".to_owned(),
            server_time_us: 0,
            body_bytes_max: 16 << 20,
            requests_in_flight_max: REQUESTS_MAX,
            bytes_in_flight_max: 32 << 20,
        }
    }

    fn topology(&self) -> TopologyReplicasReply {
        let node = TopologyNode {
            id: [1; 16],
            name: "fake".to_owned(),
            address: String::new(),
            native_port: self.native_port,
            http_port: 0,
            core_ports: self.core_ports.clone(),
        };
        let (shard_ids, shard_cores, owners) = shards(self.core_ports.len());
        let collection = TopologyCollection {
            id: [2; 16],
            definition: r#"{"name":"Docs"}"#.to_owned(),
            shard_ids,
            shard_nodes: vec![0, 0],
            shard_cores,
            owners,
        };
        let replicas = ShardReplicas {
            ends: vec![1, 2],
            nodes: vec![0, 0],
            cores: collection.shard_cores.clone(),
        };
        let (nodes, collections) = (vec![node], vec![collection]);
        let topology = TopologyReply { epoch: 7, answering_node: 0, nodes, collections };
        TopologyReplicasReply { topology, replicas: vec![replicas] }
    }

    async fn accept(self, listener: TcpListener, core: Option<usize>) {
        while let Ok((stream, _)) = listener.accept().await {
            self.counters.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(self.clone().serve(stream, core));
        }
    }

    async fn serve(self, stream: TcpStream, core: Option<usize>) {
        let (mut from, mut to) = stream.into_split();
        let (writer, mut queue) = mpsc::unbounded_channel::<Outgoing>();
        let reading = async {
            loop {
                let mut head = [0; HEADER_BYTES];
                if from.read_exact(&mut head).await.is_err() {
                    return;
                }
                let header = parse(&head, 16 << 20).expect("a client sends valid headers");
                let mut body = AlignedVec::new();
                body.resize(header.body_length as usize, 0);
                if from.read_exact(&mut body).await.is_err() {
                    return;
                }
                assert_eq!(header.check_body(&body), Ok(()));
                self.handle(Incoming { core, header, body, writer: writer.clone() });
            }
        };
        let writing = async {
            while let Some(Some(bytes)) = queue.recv().await {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    }

    fn handle(&self, incoming: Incoming) {
        match incoming.kind() {
            MessageType::Hello => incoming.reply(&self.hello()),
            MessageType::TopologyReplicas => {
                self.counters.topologies.fetch_add(1, Ordering::SeqCst);
                incoming.reply(&self.topology());
            }
            // A test that has ended reads no more requests.
            _ => drop(self.requests.send(incoming)),
        }
    }
}

impl FakeServer {
    pub(crate) async fn start(cores: usize) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let mut listeners = Vec::new();
        for _ in 0..=cores {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a port is free"));
        }
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("it is bound").port())
            .collect();
        let counters = Arc::new(Counters::default());
        let site = Site {
            counters: Arc::clone(&counters),
            requests: sender,
            native_port: ports[0],
            core_ports: ports[1..].to_vec(),
        };
        for (index, listener) in listeners.into_iter().enumerate() {
            tokio::spawn(site.clone().accept(listener, index.checked_sub(1)));
        }
        Self { address: format!("127.0.0.1:{}", ports[0]), counters, requests }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.address.as_str()]).await.expect("the server answers")
    }

    /// The next request that waits for the test.
    pub(crate) async fn next(&mut self) -> Incoming {
        self.requests.recv().await.expect("the server runs as long as its test")
    }

    /// Is no request waiting?
    pub(crate) fn is_idle(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }
}

pub(crate) fn is_unknown<T>(outcome: &Result<T, ClientError>) -> bool {
    matches!(outcome, Err(ClientError::UnknownOutcome { .. }))
}
