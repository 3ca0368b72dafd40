//! The wireserver: where an Azure VM learns what it shall be, and says that it is well.
//!
//! ```text
//! GET  /?comp=versions                                     200 the protocol's versions
//! GET  /machine/?comp=goalstate                            200 who the VM is, and where the rest stands
//! GET  /machine/{container}/{instance}?comp=config&type=…  200 HostingEnvironmentConfig, SharedConfig
//! POST /machine?comp=health                                200 `Ready`, or `NotReady` and why
//! POST /machine?comp=roleProperties | telemetrydata        200
//! ```
//!
//! Everything but the first needs the header `x-ms-version`. Microsoft does not document the protocol: this is what
//! cloud-init 22.4 (`sources/helpers/azure.py`) and the agent 2.7 (`common/protocol/{wire,goal_state}.py`) ask for and
//! read. The VM has no certificates and no extensions, so its goal state names none, as theirs may.

use std::collections::BTreeMap;

use roxmltree::Document;
use serde_json::json;

use super::config::Config;
use super::exchange::{Answer, Request, Site, uuid};
use super::log::Mark;
use super::service::Service;

/// The only version of the protocol that agents speak.
const VERSION: &str = "2012-11-30";
const XML: &str = "text/xml; charset=utf-8";
const INCARNATION: &str = "1";
/// What is made of a VM's name that is no text of XML; Azure allows no such names.
const NAMELESS: &str = "edge-vm";

/// The service.
pub(super) struct Wireserver {
    container: String,
    instance: String,
    /// `type` of a configuration → its text.
    configurations: BTreeMap<&'static str, String>,
    goal_state: String,
}

impl Wireserver {
    pub(super) fn new(config: &Config) -> Self {
        let name = plain(&config.metadata.vm_name);
        let (container, deployment) = (uuid(), uuid());
        let instance = format!("{deployment}._{name}");
        let address = config.addresses.get(Service::Wireserver);
        let base = format!("http://{address}/machine/{container}/{instance}");
        let link = |kind: &str| format!("{base}?comp=config&amp;type={kind}&amp;incarnation={INCARNATION}");
        let goal_state = format!(
            "\
<?xml version=\"1.0\" encoding=\"utf-8\"?>
<GoalState xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:noNamespaceSchemaLocation=\"goalstate10.xsd\">
  <Version>{VERSION}</Version>
  <Incarnation>{INCARNATION}</Incarnation>
  <Machine>
    <ExpectedState>Started</ExpectedState>
    <StopRolesDeadlineHint>300000</StopRolesDeadlineHint>
    <ExpectHealthReport>FALSE</ExpectHealthReport>
  </Machine>
  <Container>
    <ContainerId>{container}</ContainerId>
    <RoleInstanceList>
      <RoleInstance>
        <InstanceId>{instance}</InstanceId>
        <State>Started</State>
        <Configuration>
          <HostingEnvironmentConfig>{hosting}</HostingEnvironmentConfig>
          <SharedConfig>{shared}</SharedConfig>
          <ConfigName>{deployment}.0.{deployment}.0._{name}.1.xml</ConfigName>
        </Configuration>
      </RoleInstance>
    </RoleInstanceList>
  </Container>
</GoalState>
",
            hosting = link("hostingEnvironmentConfig"),
            shared = link("sharedConfig"),
        );
        let configurations = BTreeMap::from([
            ("hostingEnvironmentConfig", hosting_environment(&name, &deployment)),
            ("sharedConfig", shared(&name, &deployment)),
        ]);
        Self { container, instance, configurations, goal_state }
    }

    fn configuration(&self, request: &Request<'_>, path: &[&str]) -> Answer {
        if path != [self.container.as_str(), self.instance.as_str()] {
            return refuse(410, "another container's");
        }
        match request.parameter("type").and_then(|kind| self.configurations.get(kind.as_str())) {
            Some(text) => xml(text.clone()),
            None => refuse(404, "no such configuration"),
        }
    }

    /// A report of the VM's health: who says what.
    fn health(&self, request: &Request<'_>) -> Answer {
        let Some(report) = std::str::from_utf8(request.body).ok().and_then(Health::read) else {
            return refuse(400, "no report of health");
        };
        if (report.container.as_str(), report.instance.as_str()) != (&self.container, &self.instance) {
            return refuse(410, "a report on another container");
        }
        let who = request.headers.user_agent.unwrap_or("somebody without a name");
        let mark = match report.state.as_str() {
            "Ready" if who.starts_with("Cloud-Init/") => Some(Mark::VmReady),
            "Ready" if who.starts_with("WALinuxAgent/") => Some(Mark::AgentReady),
            "Ready" | "NotReady" => None,
            _ => return refuse(400, "a state that there is not"),
        };
        let note = format!("{}, says {who}", [report.state, report.detail].join(" ").trim_end());
        Answer { status: 200, ..Answer::default() }.mark(mark).note(note)
    }
}

impl Site for Wireserver {
    /// Wrong are versions that nobody speaks, and a goal state for nobody.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        let comp = request.parameter("comp").unwrap_or_default();
        let segments = request.segments().unwrap_or_default();
        let mut path: Vec<&str> = segments.iter().map(String::as_str).collect();
        if path.last().is_some_and(|last| last.is_empty()) {
            path.pop();
        }
        if (request.method, path.as_slice(), comp.as_str()) == ("GET", &[], "versions") {
            return xml(versions(if wrong { "2009-01-01" } else { VERSION }));
        }
        if path.first() == Some(&"HealthService") && request.method == "POST" {
            return Answer { status: 200, ..Answer::default() };
        }
        if path.first() != Some(&"machine") {
            return refuse(404, "no such path");
        }
        if request.headers.ms_version != Some(VERSION) {
            return refuse(400, "the header x-ms-version is missing, or names another version");
        }
        match (request.method, &path[1..], comp.as_str()) {
            ("GET", [], "goalstate") if wrong => xml(self.goal_state.replace("Container", "Nobody")),
            ("GET", [], "goalstate") => xml(self.goal_state.clone()),
            ("GET", rest, "config") => self.configuration(request, rest),
            ("POST", [], "health") => self.health(request),
            ("POST", [], "roleProperties" | "telemetrydata") => Answer { status: 200, ..Answer::default() },
            ("GET" | "POST", ..) => refuse(404, "no such component"),
            _ => refuse(405, "expected GET or POST"),
        }
    }

    fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
        refuse(status, note)
    }
}

/// A report of health, as far as it is looked at.
struct Health {
    container: String,
    instance: String,
    state: String,
    detail: String,
}

impl Health {
    fn read(text: &str) -> Option<Self> {
        // Entities are not expanded, so a small body stays small.
        let document = Document::parse(text.trim_start_matches('\u{feff}')).ok()?;
        let root = document.root_element();
        let of = |name: &str| {
            let node = root.descendants().find(|node| node.has_tag_name(name))?;
            Some(node.text().unwrap_or_default().trim().to_owned())
        };
        let details = [of("SubStatus"), of("Description")].into_iter().flatten();
        (root.has_tag_name("Health")).then_some(())?;
        Some(Self {
            container: of("ContainerId")?,
            instance: of("InstanceId")?,
            state: of("State")?,
            detail: details.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": "),
        })
    }
}

fn xml(text: String) -> Answer {
    Answer::bytes(XML, text)
}

fn refuse(status: u16, why: &str) -> Answer {
    let text =
        format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<Error><Details>{why}</Details></Error>\n");
    Answer { status, ..xml(text) }.note(why)
}

fn plain(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.chars().all(good) { name.to_owned() } else { NAMELESS.to_owned() }
}

fn versions(supported: &str) -> String {
    format!(
        "\
<?xml version=\"1.0\" encoding=\"utf-8\"?>
<Versions>
  <Preferred><Version>{supported}</Version></Preferred>
  <Supported><Version>{supported}</Version></Supported>
</Versions>
"
    )
}

fn hosting_environment(name: &str, deployment: &str) -> String {
    format!(
        "\
<?xml version=\"1.0\" encoding=\"utf-8\"?>
<HostingEnvironmentConfig version=\"1.0.0.0\" goalStateIncarnation=\"{INCARNATION}\">
  <StoredCertificates/>
  <Deployment name=\"{deployment}\" guid=\"{{{deployment}}}\" incarnation=\"0\"/>
  <Incarnation number=\"{INCARNATION}\" instance=\"{name}\" guid=\"{{{deployment}}}\"/>
  <Role guid=\"{{{deployment}}}\" name=\"{name}\" hostingEnvironmentVersion=\"1\" software=\"\" softwareType=\"ApplicationPackage\"/>
</HostingEnvironmentConfig>
"
    )
}

fn shared(name: &str, deployment: &str) -> String {
    format!(
        "\
<?xml version=\"1.0\" encoding=\"utf-8\"?>
<SharedConfig version=\"1.0.0.0\" goalStateIncarnation=\"{INCARNATION}\">
  <Deployment name=\"{deployment}\" guid=\"{{{deployment}}}\" incarnation=\"0\"/>
  <Incarnation number=\"{INCARNATION}\" instance=\"{name}\" guid=\"{{{deployment}}}\"/>
  <Role guid=\"{{{deployment}}}\" name=\"{name}\" settleTimeSeconds=\"0\"/>
</SharedConfig>
"
    )
}

/// The host's plugin, port 32526: which versions of its interface there are. It has no settings for extensions, which
/// agents take as one that is older than those.
pub(super) struct Hostplugin;

impl Site for Hostplugin {
    /// Wrong is a list of versions that nobody speaks.
    fn answer_as(&self, request: &Request<'_>, wrong: bool) -> Answer {
        match (request.method, request.path) {
            ("GET", "/versions") => {
                Answer::json(200, json!([if wrong { "1999-01-01" } else { "2015-09-01" }]))
            }
            ("GET", "/health") => Answer { status: 200, ..Answer::default() },
            _ => self.failure(request, 404, "no such path"),
        }
    }

    fn failure(&self, _: &Request<'_>, status: u16, note: &str) -> Answer {
        Answer { status, ..Answer::default() }.note(note)
    }
}

#[cfg(test)]
mod tests {
    use super::{Hostplugin, Wireserver};
    use crate::config::Config;
    use crate::exchange::tests::{json, request};
    use crate::exchange::{Answer, Body, Headers, Request, Site as _};
    use crate::log::Mark;
    use crate::pki::Pki;
    use roxmltree::Document;

    const HEADERS: fn(&'static str) -> Headers<'static> = |user_agent| Headers {
        ms_version: Some("2012-11-30"),
        user_agent: Some(user_agent),
        ..Headers::default()
    };

    fn service() -> Wireserver {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut config = Config::new(Pki::open_or_create(folder.path()).expect("authorities"));
        config.metadata.vm_name = "pump-7".into();
        Wireserver::new(&config)
    }

    fn text(answer: &Answer) -> String {
        match &answer.body {
            Body::Bytes(_, bytes) => String::from_utf8(bytes.to_vec()).expect("text"),
            other => panic!("no text: {other:?}"),
        }
    }

    fn get(service: &Wireserver, path: &str, query: &str) -> Answer {
        service.answer(&Request { headers: HEADERS("x"), ..request("GET", path, query) })
    }

    fn element(text: &str, name: &str) -> String {
        let document = Document::parse(text).expect("XML");
        let found = document.descendants().find(|node| node.has_tag_name(name)).expect(name);
        found.text().expect("text").to_owned()
    }

    fn report(service: &Wireserver, state: &str, detail: &str) -> String {
        let goal = text(&get(service, "/machine/", "comp=goalstate"));
        let (container, instance) = (element(&goal, "ContainerId"), element(&goal, "InstanceId"));
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><Health><GoalStateIncarnation>1</GoalStateIncarnation>\
             <Container><ContainerId>{container}</ContainerId><RoleInstanceList><Role><InstanceId>{instance}\
             </InstanceId><Health><State>{state}</State>{detail}</Health></Role></RoleInstanceList></Container></Health>"
        )
    }

    fn post(service: &Wireserver, agent: &'static str, body: &[u8]) -> Answer {
        service.answer(&Request {
            headers: HEADERS(agent),
            body,
            ..request("POST", "/machine", "comp=health")
        })
    }

    #[test]
    fn the_goal_state_leads_to_the_rest() {
        let service = service();
        let goal = text(&get(&service, "/machine/", "comp=goalstate"));
        assert!(element(&goal, "InstanceId").ends_with("._pump-7"));
        for (name, inside) in [("HostingEnvironmentConfig", "pump-7"), ("SharedConfig", "pump-7")] {
            let url: url::Url = element(&goal, name).parse().expect("an address");
            let answer = get(&service, url.path(), url.query().expect("query"));
            assert_eq!(answer.status, 200, "{name}");
            let config = text(&answer);
            let document = Document::parse(&config).expect("XML");
            let incarnation = document.descendants().find(|node| node.has_tag_name("Incarnation"));
            assert_eq!(incarnation.and_then(|node| node.attribute("instance")), Some(inside));
        }
        let versions = get(&service, "/", "comp=versions");
        assert_eq!(element(&text(&versions), "Version"), "2012-11-30");
    }

    #[test]
    fn who_is_ready_is_told_apart() {
        let service = service();
        for (agent, state, mark) in [
            ("Cloud-Init/22.4.2", "Ready", Some(Mark::VmReady)),
            ("WALinuxAgent/2.7.3.0", "Ready", Some(Mark::AgentReady)),
            ("curl/8", "Ready", None),
            ("Cloud-Init/22.4.2", "NotReady", None),
        ] {
            let answer = post(&service, agent, report(&service, state, "").as_bytes());
            assert_eq!((answer.status, answer.mark), (200, mark), "{agent} {state}");
            assert_eq!(answer.note, format!("{state}, says {agent}"));
        }
        let detail = "<Details><SubStatus>ProvisioningFailed</SubStatus><Description>no network</Description></Details>";
        let answer = post(&service, "Cloud-Init/22.4.2", report(&service, "NotReady", detail).as_bytes());
        assert_eq!(answer.note, "NotReady ProvisioningFailed: no network, says Cloud-Init/22.4.2");
    }

    #[test]
    fn improper_requests_are_refused() {
        let service = service();
        let bare = |method, path, query| service.answer(&request(method, path, query)).status;
        assert_eq!(bare("GET", "/", "comp=versions"), 200);
        assert_eq!(bare("GET", "/machine/", "comp=goalstate"), 400, "without x-ms-version");
        for (path, query, status) in [
            ("/machine", "comp=goalstate", 200),
            ("/machine", "comp=other", 404),
            ("/machine", "", 404),
            ("/machine/a/b", "comp=config&type=sharedConfig", 410),
            ("/other", "comp=goalstate", 404),
            ("/", "", 404),
        ] {
            assert_eq!(get(&service, path, query).status, status, "{path}?{query}");
        }
        let goal = text(&get(&service, "/machine", "comp=goalstate"));
        let link: url::Url = element(&goal, "SharedConfig").parse().expect("an address");
        assert_eq!(get(&service, link.path(), "comp=config&type=certificates").status, 404, "it has none");
    }

    #[test]
    fn any_bytes_are_no_report() {
        let service = service();
        let whole = report(&service, "Ready", "");
        let agent = "Cloud-Init/22.4.2";
        for end in 0..whole.len() {
            assert_ne!(post(&service, agent, &whole.as_bytes()[..end]).status, 200, "cut at {end}");
        }
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 0xff;
            assert!(matches!(post(&service, agent, &bytes).status, 400 | 410), "byte {at} flipped");
        }
        assert_eq!(post(&service, agent, whole.replace("Ready", "Perhaps").as_bytes()).status, 400);
    }

    #[test]
    fn wrong_answers_are_well_formed() {
        let service = service();
        let ask = |path, query| Request { headers: HEADERS("x"), ..request("GET", path, query) };
        let versions = text(&service.wrong(&ask("/", "comp=versions")));
        assert!(Document::parse(&versions).is_ok() && !versions.contains("2012"));
        let goal = text(&service.wrong(&ask("/machine", "comp=goalstate")));
        let document = Document::parse(&goal).expect("XML");
        assert!(!document.descendants().any(|node| node.has_tag_name("ContainerId")));
    }

    #[test]
    fn the_host_s_plugin() {
        let ask = |method, path| Hostplugin.answer(&request(method, path, ""));
        assert_eq!(json(&ask("GET", "/versions")), &serde_json::json!(["2015-09-01"]));
        assert_eq!(ask("GET", "/health").status, 200);
        assert_eq!(ask("GET", "/vmSettings").status, 404);
        assert_eq!(ask("POST", "/versions").status, 404);
    }
}
