//! Does a server that breaks the protocol get an error, and no more than that?

use crate::fake::{FakeServer, Incoming};
use heddle_client::ClientError;
use heddle_types::{ApiError, ErrorCode};
use heddle_wire::message::CountReply;
use heddle_wire::{HEADER_BYTES, encode_error, encode_reply};

/// Answers one count with `answer`, the next one well, and gives what the caller saw.
async fn count_after(answer: fn(&Incoming)) -> Result<u64, ClientError> {
    let mut server = FakeServer::start(1).await;
    let docs = server.client().await.collection("Docs");
    let reader = tokio::spawn(async move { docs.count(None).await });
    answer(&server.next().await);
    let server = async move {
        loop {
            server.next().await.reply(&CountReply { count: 3 });
        }
    };
    tokio::select! {
        outcome = reader => outcome.expect("the client does not panic"),
        () = server => unreachable!("the server answers for ever"),
    }
}

fn good_reply(incoming: &Incoming) -> Vec<u8> {
    encode_reply(incoming.header.request_id, &CountReply { count: 1 }).expect("it fits").to_vec()
}

#[tokio::test]
async fn damaged_streams_are_left_for_a_new_connection() {
    let answers: [fn(&Incoming); 7] = [
        |incoming| incoming.raw(&[0xFF; 64]),
        |incoming| incoming.raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        |incoming| {
            let mut bytes = good_reply(incoming);
            bytes[20] ^= 1;
            incoming.raw(&bytes);
        },
        |incoming| {
            let mut bytes = good_reply(incoming);
            bytes[HEADER_BYTES] ^= 1;
            incoming.raw(&bytes);
        },
        |incoming| {
            let bytes = good_reply(incoming);
            incoming.raw(&bytes[..HEADER_BYTES + 3]);
            incoming.close();
        },
        |incoming| incoming.raw(&encode_reply(999_999, &CountReply { count: 1 }).unwrap()),
        |incoming| {
            incoming.raw(&encode_error(0, &ApiError::new(ErrorCode::Protocol, "bad frame", "")));
        },
    ];
    for (index, answer) in answers.into_iter().enumerate() {
        assert_eq!(count_after(answer).await.expect("a read is sent again"), 3, "answer {index}");
    }
}

#[tokio::test]
async fn bodies_that_break_the_rules_are_invalid_replies() {
    // A header of a count reply in front of bodies that are none.
    fn framed(incoming: &Incoming, body: &[u8]) -> Vec<u8> {
        let header = heddle_wire::Header {
            version: heddle_wire::VERSION,
            type_number: heddle_wire::MessageType::Count.reply_number(),
            body_length: body.len() as u32,
            body_crc32c: checksum(body),
            request_id: incoming.header.request_id,
            deadline_us: 0,
        };
        [&header.encode()[..], body].concat()
    }
    let answers: [fn(&Incoming); 2] = [
        |incoming| incoming.raw(&framed(incoming, &[])),
        |incoming| incoming.raw(&framed(incoming, &[1, 2, 3])),
    ];
    for answer in answers {
        let outcome = count_after(answer).await;
        assert!(matches!(outcome, Err(ClientError::InvalidReply { .. })), "{outcome:?}");
    }
}

/// CRC-32C by its definition, so that this test needs no crate for it.
fn checksum(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1))
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}
