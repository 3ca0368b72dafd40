//! All rules, one line each. docs/modules.md has the same table; a test compares them.

use edgepress_base::finding::Severity;

/// A rule: how bad it is, what is wrong, and who says so.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, for the tests and for people who speak of it.
    pub name: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub what: &'static str,
    /// Why, and whence that is known.
    pub why: &'static str,
}

/// The rules, each by a name of its own, and all of them in their order.
macro_rules! rules {
    ($($name:ident: $severity:ident, $text:literal, $what:literal, $why:literal;)*) => {
        $(pub(super) static $name: Rule =
            Rule { name: $text, severity: Severity::$severity, what: $what, why: $why };)*
        /// All rules, in the order of the manifest's parts.
        pub static RULES: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    DUPLICATE_KEY: Error, "duplicate-key", "a key stands twice in one object", "readers take the last and say nothing";
    WRONG_TYPE: Error, "wrong-type", "a value of the wrong JSON type", "edgeAgent's and edgeHub's classes, the Azure CLI's schemas";
    UNKNOWN_KEY: Warning, "unknown-key", "a key that nobody reads", "edgeAgent ignores it, the Azure CLI's schemas refuse it; a slip of the pen, mostly";
    NO_CONTENT: Error, "no-content", "`modulesContent` is missing", "the Azure CLI and IoT Hub refuse a manifest without it";
    TWIN_FORM: Error, "twin-form", "a twin's properties do not begin with `properties.desired`", "IoT Hub applies nothing else";
    TWIN_OF_NOBODY: Warning, "twin-of-nobody", "a twin for a module that the manifest does not have", "a module renamed in one place alone";
    LAYERED_KEY: Error, "layered-key", "a dotted key that leads nowhere", "layered deployments may set `modules.NAME`, `systemModules.NAME`, `runtime…`, `routes.NAME` …";
    LAYERED_ALONE: Warning, "layered-alone", "the manifest is layered", "it lies over a complete deployment; a device that has none is told nothing by it";

    AGENT_MISSING: Error, "agent-missing", "`$edgeAgent` has no desired properties", "status 417: edgeAgent waits for a deployment";
    AGENT_SCHEMA: Error, "agent-schema", "edgeAgent's `schemaVersion` is not 1.0 or 1.1", "status 412: EdgeAgentConnection.cs takes major version 1, at most 1.1";
    AGENT_PART: Error, "agent-part", "`runtime` or `systemModules` is missing", "status 400: DeploymentConfig.cs refuses it";
    RUNTIME_TYPE: Error, "runtime-type", "`runtime.type` is not `docker`", "edgeAgent has no other: DockerRuntimeInfo.cs compares it as it is";
    DOCKER_VERSION: Warning, "docker-version", "`minDockerVersion` is no version", "the portal writes `v1.25`";
    SYSTEM_AGENT: Error, "system-agent", "`systemModules` has no edgeAgent", "the Azure CLI's schemas demand it; edgeAgent would not learn which image it shall be";
    SYSTEM_HUB: Warning, "system-hub", "`systemModules` has no edgeHub", "edgeAgent takes it, the Azure CLI's schemas refuse it";
    SYSTEM_UNKNOWN: Error, "system-unknown", "another module under `systemModules`", "SystemModules.cs reads edgeAgent and edgeHub alone: this one never starts";
    CREDENTIALS_INCOMPLETE: Error, "credentials-incomplete", "registry credentials without address, user or password", "status 400: RegistryCredentials.cs refuses empty ones";
    CREDENTIALS_PLACEHOLDER: Error, "credentials-placeholder", "a placeholder in registry credentials", "the registry answers 401, on the device";
    CREDENTIALS_ADDRESS: Warning, "credentials-address", "a registry's address with a scheme or a path", "DockerUtil.cs compares it with the image's first part, as it is";
    CREDENTIALS_UNUSED: Warning, "credentials-unused", "credentials that no image needs", "a slip in the address leaves the images without them";
    CREDENTIALS_TWICE: Warning, "credentials-twice", "two credentials for one registry", "edgeAgent takes the first";
    CREDENTIALS_MISSING: Warning, "credentials-missing", "an image at an Azure container registry, and no credentials for it", "it answers 401 unless it allows anonymous pulls; `docker login` on the device does not help";

    MODULE_COUNT: Error, "module-count", "more than 50 modules", "IoT Edge limits: 50 modules in a deployment";
    MODULE_NAME: Error, "module-name", "a module's name that IoT Hub, the engine or the Azure CLI refuses", "letters, digits, `_` and `-`, 2 to 128 of them, a letter or digit first";
    MODULE_RESERVED: Error, "module-reserved", "a module called like edgeAgent or edgeHub", "DeploymentConfig.cs puts both into one dictionary and fails";
    MODULE_PART: Error, "module-part", "`type`, `status` or `settings` is missing", "status 400: they are required in DockerModule.cs, EdgeHubDockerModule.cs";
    MODULE_TYPE: Error, "module-type", "a module's `type` is not `docker`", "status 400: the classes compare it as it is";
    RESTART_POLICY: Error, "restart-policy", "an unknown `restartPolicy`", "status 400: IModule.cs";
    RESTART_POLICY_MISSING: Warning, "restart-policy-missing", "no `restartPolicy`", "the Azure CLI's schemas demand it; edgeAgent takes on-unhealthy";
    STATUS: Error, "status", "an unknown `status`", "status 400: IModule.cs; the Azure CLI takes running and stopped";
    PULL_POLICY: Error, "pull-policy", "an unknown `imagePullPolicy`", "status 400: IModule.cs";
    WORD_CASE: Warning, "word-case", "a word in the wrong case", "edgeAgent does not mind, the Azure CLI's schemas do";
    STARTUP_ORDER: Error, "startup-order", "`startupOrder` is no number from 0 to 4294967295", "status 400: DockerModule.cs";
    STARTUP_SCHEMA: Warning, "startup-schema", "`startupOrder` with schema version 1.0", "it came with 1.1; the Azure CLI's schema 1.0 refuses it";
    AGENT_KEY: Warning, "agent-key", "edgeAgent with a `status`, `restartPolicy`, `startupOrder` or `version`", "EdgeAgentDockerModule.cs: always running, always restarted, first; the Azure CLI's schemas refuse them";
    ENV_PLACE: Error, "env-place", "`env` in `settings`", "it belongs beside them: edgeAgent ignores it there, the Azure CLI refuses it";
    ENV_VALUE: Error, "env-value", "a variable that is not {\"value\": text, number, true or false}", "EnvVal.cs reads `value` and nothing else";
    ENV_NAME: Error, "env-name", "a variable's name is empty or has `=` in it", "the engine splits NAME=value at the first `=`";

    IMAGE_MISSING: Error, "image-missing", "no image, or an empty one", "status 400: DockerConfig.cs";
    IMAGE_WRONG: Error, "image-wrong", "no reference to an image", "status 400: DockerConfig.cs; what passes there the engine refuses";
    IMAGE_TAG_DIGEST: Error, "image-tag-digest", "an image with both tag and digest", "status 400: the pattern in DockerConfig.cs has room for one";
    IMAGE_PLACEHOLDER: Error, "image-placeholder", "a placeholder in an image", "the manifest is a template that nobody filled in";
    IMAGE_LATEST: Warning, "image-latest", "an image without tag or digest", "edgeAgent appends `:latest`: nobody knows what will run";
    IMAGE_ARCH: Warning, "image-arch", "an image whose name or tag says another architecture", "`exec format error` on the device";
    PRELOADED_PULLED: Warning, "preloaded-pulled", "the image is preloaded, but is pulled all the same", "`imagePullPolicy` is on-create unless the manifest says never";
    NEVER_PRELOADED: Error, "never-preloaded", "the image is never pulled, and not preloaded", "the engine has no such image: the module never starts";
    BOOTSTRAP_AGENT: Warning, "bootstrap-agent", "edgeAgent's image is another one than config.toml starts", "the device pulls a second edgeAgent, and restarts with it";

    OPTIONS_OBJECT: Error, "options-object", "createOptions are an object", "they must be a string with JSON in it: the Azure CLI refuses the object, and IoT Hub its keys and depth";
    OPTIONS_JSON: Error, "options-json", "createOptions are no JSON object", "status 400: DockerConfig.cs";
    OPTIONS_LOOSE_JSON: Warning, "options-loose-json", "createOptions with single quotes, comments, names without quotes, or a comma too many", "edgeAgent's reader takes them (Newtonsoft.Json), the portal and iotedgedev do not";
    OPTIONS_LONG: Warning, "options-long", "a chunk of createOptions has more than 512 characters", "edgeAgent and the tools cut there, into createOptions01 …";
    OPTIONS_CHUNKS: Error, "options-chunks", "chunks of createOptions with a gap, a wrong number, or more than 100", "status 400: ChunkedValue in JsonEx.cs";
    OPTIONS_SHAPE: Error, "options-shape", "a part of createOptions of the wrong JSON type", "status 400: the classes in Agent.Docker/models";
    OPTIONS_PLACE: Warning, "options-place", "a part of createOptions in the wrong place", "the engine ignores it there";
    PORT_KEY: Error, "port-key", "a container's port that is none", "the engine takes PORT, PORT/tcp, PORT/udp and PORT/sctp";
    HOST_PORT: Error, "host-port", "a host's port that is none", "the engine's PORT or FIRST-LAST, 1 to 65535";
    OPTIONS_LOOSE: Warning, "options-loose", "a port as a number, or a number or boolean as text", "edgeAgent converts it; the engine, and tools that speak to it, do not";
    HOST_PORT_TWICE: Error, "host-port-twice", "two modules on one port of the host", "the second one does not start: port is already allocated";
    BIND_FORM: Error, "bind-form", "a bind or mount that the engine refuses", "SOURCE:TARGET[:OPTIONS]: an absolute path or a volume's name, and an absolute path";
    HOST_NETWORK: Warning, "host-network", "the host's network without `NetworkingConfig`", "edgeAgent adds a network of its own unless EndpointsConfig is there (CombinedEdgeletConfigProvider.cs)";
    HOST_NETWORK_PORTS: Warning, "host-network-ports", "port bindings with the host's network", "the engine discards them";
    DOCKER_RESTART: Warning, "docker-restart", "the engine's own `RestartPolicy` or `AutoRemove`", "edgeAgent starts and removes modules; both at once fight";
    DOCKER_SOCKET: Warning, "docker-socket", "the engine's socket in a container", "who can write to it is root on the device";
    PRIVATE_PLACE: Warning, "private-place", "a module sees keys of the machine, or what uses them", "folders of the runtime, of Azure's agents, of the engine, the partition with the identity: whoever has them is the device";
    PRIVATE_PLACE_FORBIDDEN: Error, "private-place-forbidden", "the same, where the recipe forbids privileged modules", "`allow_elevated_docker_permissions = false` takes no bind away: the module would be the device, or root on it";
    HOST_RIGHTS: Warning, "host-rights", "a module that nothing keeps from its machine", "privileged, disks or memory as devices, the machine's processes, capabilities such as SYS_ADMIN, no confinement, another module's folders";
    HOST_RIGHTS_FORBIDDEN: Error, "host-rights-forbidden", "the same, where the recipe forbids privileged modules", "`allow_elevated_docker_permissions = false` takes `Privileged` and `CapAdd` away, and nothing else";
    HOST_NETWORK_REACH: Warning, "host-network-reach", "the host's network", "the firewall keeps containers on bridges from the metadata address, not the machine's own network: on an Azure VM the module reads every secret that the device may read";
    PRIVILEGED: Error, "privileged", "a privileged module, or one with added capabilities, where the recipe forbids it", "`allow_elevated_docker_permissions = false`: aziot-edged takes them away (runtime.rs)";
    STORAGE: Warning, "storage", "edgeAgent's or edgeHub's storage is not bound to the host", "messages and the last deployment are lost with the container";

    HUB_MISSING: Error, "hub-missing", "routes, and no edgeHub", "nobody carries the messages";
    HUB_CONFIG: Error, "hub-config", "edgeHub, and no `$edgeHub`", "EdgeHubConfigParser.cs: missing SchemaVersion";
    HUB_SCHEMA: Error, "hub-schema", "edgeHub's `schemaVersion` is not 1.0 to 1.3", "EdgeHubConfigParser.cs refuses it; edgeHub keeps its old routes";
    HUB_PART: Error, "hub-part", "`routes` or `storeAndForwardConfiguration` with its `timeToLiveSecs` is missing", "required from schema version 1.1 on (EdgeHubDesiredProperties); a time to live that is missing is 0: no message waits";
    ROUTE_SYNTAX: Error, "route-syntax", "a route that does not parse", "one is enough: edgeHub refuses all (Route.g4; Azure/iotedge issue 5308)";
    ROUTE_OBJECT: Error, "route-object", "a route that is neither text nor { route, priority, timeToLiveSecs }", "RouteSpecConverter.cs; objects from schema version 1.1 on";
    ROUTE_EMPTY: Error, "route-empty", "an empty route", "RouteSpec.cs refuses it; schema version 1.0 skips it";
    ROUTE_PRIORITY: Error, "route-priority", "a route's `priority` is not 0 to 9", "RouteSpec.cs";
    ROUTE_IGNORED: Warning, "route-ignored", "text after a route's sink", "edgeHub ignores it, a condition too (Azure/iotedge issue 4353)";
    ROUTE_ADDRESS: Warning, "route-address", "a sink that is not /modules/NAME/inputs/INPUT", "EndpointFactory.cs counts four parts, and does not read the first and the third";
    ROUTE_MODULE: Warning, "route-module", "a route from or to a module that the manifest does not have", "its messages are kept for nobody until their time is over";
    ROUTE_SOURCE: Warning, "route-source", "a route's source that no message has", "sources begin with /messages, /twinChangeNotifications or /*";
    ROUTE_FUNCTION: Error, "route-function", "a function that conditions do not have", "ConditionVisitor.cs";
    STORE_FORWARD: Error, "store-forward", "`timeToLiveSecs` or `maxSizeBytes` out of range", "32 and 64 bits with a sign (StoreAndForwardConfiguration.cs); a route's is not negative";
    STORE_LIMITS: Warning, "store-limits", "`storeLimits` with a schema version below 1.3", "edgeHub obeys it; the Azure CLI's schemas 1.0 to 1.2 refuse it, and it has none for 1.3";
    MQTT_BROKER: Warning, "mqtt-broker", "`mqttBroker` is not checked", "a preview of 1.2 that was withdrawn; edgeHub 1.3 and later have no broker";

    TWIN_SIZE: Error, "twin-size", "a twin's desired properties are larger than 32 KB", "IoT Hub: device twins, size";
    TWIN_VALUE: Error, "twin-value", "a text of more than 4 KB in a twin", "IoT Hub: device twins, format";
    TWIN_KEY: Error, "twin-key", "a key in a twin with `.`, `$`, a space or a control character, or of more than 1 KB", "IoT Hub: device twins, format";
    TWIN_DEPTH: Error, "twin-depth", "objects in a twin more than 10 levels deep", "IoT Hub: device twins, format";
    TWIN_INTEGER: Error, "twin-integer", "an integer in a twin beyond ±2^52", "IoT Hub: device twins, format";
}
