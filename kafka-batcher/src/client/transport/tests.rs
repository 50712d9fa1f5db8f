//! TLS against a server of rustls' own in this process, whose certificate lies in `tests/fixtures/tls` (127.0.0.1, until 2098).

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::client::tls::Tls;
use crate::config::SslConfig;

type Server = StreamOwned<ServerConnection, std::net::TcpStream>;

fn fixture(name: &str) -> std::path::PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/tls", name].iter().collect()
}

/// A connection to a server that does this.
async fn connected<T: Send + 'static>(
    serve: impl FnOnce(Server) -> T + Send + 'static,
) -> (Transport, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let chain =
            CertificateDer::pem_file_iter(fixture("broker.crt")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(fixture("broker.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let (socket, _) = listener.accept().unwrap();
        serve(StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket))
    });
    let tls = Tls::new(SslConfig { ca_file: Some(fixture("ca.pem")), ..SslConfig::default() });
    let (session, words) = tls.begin("127.0.0.1").unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let stream = TlsStream::agree(socket, session, words).await.unwrap();
    (Transport::Tls(stream), server)
}

fn echo(mut server: Server, bytes: usize) -> Server {
    let mut rest = bytes;
    let mut buffer = vec![0; 3000];
    while rest > 0 {
        let n = server.read(&mut buffer).unwrap();
        server.write_all(&buffer[..n]).unwrap();
        rest -= n;
    }
    server
}

/// Writes as a sink does while the other half reads.
async fn there_and_back(transport: Transport, sent: Vec<u8>) -> Vec<u8> {
    let (mut read, write) = transport.into_split();
    let total = sent.len();
    let writing = async move {
        let mut written = 0;
        loop {
            let outcome = match written < sent.len() {
                // In several slices, as a request is.
                true => {
                    let (a, b) = sent[written..].split_at((sent.len() - written) / 2);
                    write.try_write_vectored(&[IoSlice::new(a), IoSlice::new(b)])
                }
                false => write.try_flush().map(|()| 0),
            };
            match outcome {
                Ok(0) => return write,
                Ok(n) => written += n,
                Err(error) => {
                    assert!(would_block(&error), "{error}");
                    write.writable().await.unwrap();
                }
            }
        }
    };
    let reading = async move {
        let mut back = Vec::new();
        let mut buffer = [0; 5000];
        while back.len() < total {
            let n = read.read(&mut buffer).await.unwrap();
            assert_ne!(n, 0);
            back.extend_from_slice(&buffer[..n]);
        }
        back
    };
    let (_write, back) = tokio::join!(writing, reading);
    back
}

#[tokio::test]
async fn what_the_socket_does_not_take_at_once_arrives_whole_and_in_order() {
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let total = sent.len();
    let (transport, server) = connected(move |server| drop(echo(server, total))).await;
    assert!(there_and_back(transport, sent.clone()).await == sent);
    server.join().unwrap();
}

#[tokio::test]
async fn a_key_update_of_the_brokers_is_answered_and_nothing_is_lost_by_it() {
    let (transport, server) = connected(|mut server| {
        server.conn.complete_io(&mut server.sock).unwrap();
        server.conn.refresh_traffic_keys().unwrap();
        drop(echo(server, 100_000));
    })
    .await;
    assert_eq!(there_and_back(transport, vec![7; 100_000]).await, vec![7; 100_000]);
    server.join().unwrap();
}

#[tokio::test]
async fn who_goes_says_goodbye() {
    let (transport, server) = connected(|mut server| {
        let mut first = [0; 5];
        server.read_exact(&mut first).unwrap();
        server.write_all(b"hi").unwrap();
        // 0 only after a goodbye; without one it would be an error.
        (first, server.read(&mut [0; 10]).map_err(|error| error.kind()))
    })
    .await;
    let (mut read, write) = transport.into_split();
    assert_eq!(write.try_write_vectored(&[IoSlice::new(b"hello")]).unwrap(), 5);
    // With the tickets before it: a socket that is closed with something unread resets the connection instead.
    assert_eq!(read.read(&mut [0; 10]).await.unwrap(), 2);
    drop((write, read));
    assert_eq!(server.join().unwrap(), (*b"hello", Ok(0)));
}

#[tokio::test]
async fn a_connection_that_is_cut_off_has_ended_and_what_came_before_is_read() {
    let (transport, server) = connected(|mut server| {
        server.write_all(b"last words").unwrap();
        server.sock.shutdown(std::net::Shutdown::Both).unwrap();
    })
    .await;
    let (mut read, _write) = transport.into_split();
    let mut buffer = [0; 100];
    assert_eq!(read.read(&mut buffer).await.unwrap(), 10);
    assert_eq!(read.read(&mut buffer).await.unwrap(), 0);
    server.join().unwrap();
}

#[tokio::test]
async fn what_came_before_a_broken_record_is_read_and_then_the_error_is_told() {
    let (transport, server) = connected(|mut server| {
        server.conn.complete_io(&mut server.sock).unwrap();
        server.conn.writer().write_all(b"last words").unwrap();
        let mut bytes = Vec::new();
        while server.conn.wants_write() {
            server.conn.write_tls(&mut bytes).unwrap();
        }
        // A record that nobody can decrypt, in the same packet. The socket stays open: nothing more comes, and no end.
        bytes.extend([23, 3, 3, 0, 32]);
        bytes.extend([7; 32]);
        server.sock.write_all(&bytes).unwrap();
        server
    })
    .await;
    let (mut read, _write) = transport.into_split();
    let mut buffer = [0; 100];
    assert_eq!(read.read(&mut buffer).await.unwrap(), 10);
    assert_eq!(&buffer[..10], b"last words");
    let said = read.read(&mut buffer).await.unwrap_err().to_string();
    assert!(said.contains("TLS failed"), "{said}");
    server.join().unwrap();
}

#[tokio::test]
async fn a_broker_that_speaks_no_tls_is_told_from_one_that_closes() {
    for (answer, words) in
        [("HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"), ("", "closed the connection")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 1000]);
            socket.write_all(answer.as_bytes()).unwrap();
        });
        let (session, said) =
            Tls::new(SslConfig { ca_file: Some(fixture("ca.pem")), ..SslConfig::default() })
                .begin("a")
                .unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let error = TlsStream::agree(socket, session, said).await.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
        server.join().unwrap();
    }
}
