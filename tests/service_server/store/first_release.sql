-- The database of the first release, made by its own programs and written out by pg_dump: a
-- pipeline that was synced, one in the middle of its first run whose service died under it, and a
-- paused one whose run had failed. The key of the secrets is in tests/service_server/conftest.py,
-- the account that they read is described in tests/end_to_end/test_upgrade.py. Never changed.

CREATE SCHEMA pipesync;

CREATE SEQUENCE pipesync.fencing_tokens
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE pipesync.leases (
    pipeline_id text NOT NULL COLLATE pg_catalog."C",
    token bigint NOT NULL,
    holder text NOT NULL,
    acquire_time timestamp with time zone NOT NULL,
    expire_time timestamp with time zone NOT NULL
);

CREATE TABLE pipesync.migrations (
    number integer NOT NULL,
    name text NOT NULL,
    apply_time timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE pipesync.pipelines (
    id text NOT NULL COLLATE pg_catalog."C",
    config json NOT NULL,
    sealed_config bytea NOT NULL,
    desired_status smallint NOT NULL,
    status smallint NOT NULL,
    status_message text DEFAULT ''::text NOT NULL,
    sync_policy smallint NOT NULL,
    etag text NOT NULL,
    create_time timestamp with time zone DEFAULT now() NOT NULL,
    update_time timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE pipesync.runs (
    pipeline_id text NOT NULL COLLATE pg_catalog."C",
    run_id text NOT NULL COLLATE pg_catalog."C",
    status smallint NOT NULL,
    start_time timestamp with time zone NOT NULL,
    end_time timestamp with time zone,
    progress bytea NOT NULL,
    failure_message text DEFAULT ''::text NOT NULL
);

CREATE TABLE pipesync.states (
    pipeline_id text NOT NULL COLLATE pg_catalog."C",
    sync_state bytea NOT NULL,
    update_time timestamp with time zone DEFAULT now() NOT NULL
);

INSERT INTO pipesync.leases (pipeline_id, token, holder, acquire_time, expire_time) VALUES ('half-done', 4, 'sync-host:4711', '2025-11-27 08:49:11.826708+00', '2025-11-27 08:49:26.826708+00');

INSERT INTO pipesync.migrations (number, name, apply_time) VALUES (1, 'pipelines', '2026-11-27 08:48:55.942796+00');

INSERT INTO pipesync.pipelines (id, config, sealed_config, desired_status, status, status_message, sync_policy, etag, create_time, update_time) VALUES ('finished', '{"source": {"type": "stripe", "config": {"api_key": "********", "account_id": "acct_simulator", "account_created": 1640995200.0, "base_url": "http://127.0.0.1:41623"}}, "destination": {"type": "postgres", "config": {"url": "********"}}, "streams": [{"name": "products"}]}', '\x630dcd2902b2bec1edc05cc3013b9c1fb9e27902cebeb0287d4bd8b1e9efbe97c7566d55ae041710d5834926ebe7e1f1f4a671a439c24d7e527280a1dba9c58be56742440d40ad0bfbdfde7168dd166ae26d349f26614e8bf094650ab2954cb9fb2b19ee1afe7af50398d8eff899704b2b83c4c2a2b73dfcadf211354cd9052d442a6d17095fe0af13f5dce1dd07884d0c501fa60ad514c31b1c66a159b812145a7eb58db142d6f432fa1a314f2ef95d05e32dc9b70310b7d9276b124806c610c5683d7d5b03a39309fe9fc3ec75d8bbc53ea343633e9fdbaa5eb250090c4e12254888f507c31ac319a88fd99a0e81b06c682266bc2b490351450ba7ac5e21e0768466e22bb5d57d884f6e414c5e45195091c9fa4f7a96e6feb9680813c49372d14b26b565a4801e96d174e24670d3dae91cb12bc86407a5290d43147d0fa625badbd018', 1, 3, '', 1, '1f94235ad9048fe1', '2026-11-27 08:49:07.081232+00', '2026-11-27 08:49:12.324002+00');
INSERT INTO pipesync.pipelines (id, config, sealed_config, desired_status, status, status_message, sync_policy, etag, create_time, update_time) VALUES ('half-done', '{"source": {"type": "stripe", "config": {"api_key": "********", "account_id": "acct_simulator", "account_created": 1640995200.0, "base_url": "http://127.0.0.1:41623"}}, "destination": {"type": "postgres", "config": {"url": "********"}}, "streams": [{"name": "customers"}, {"name": "products"}]}', '\x630dcd29983323458af8b6f05e0d843c637cd3e80695123e07bd508ae4f50c997dcff64e2a16f088335357a3944d36a7544a8031a92ab6f3ddeecb65ecf13f2f926c5d5c67cb2258c64ed640f71bfe4ab26f3c358d251b0e095cf3b7ad2906d7be13b9d50ee6ac3c1b0053b7a1a987816fadc58f3c0fe656d3fdc6eaf15515619d61f648b1afa61214104f17a5af38ce71288500a94c192a1b3349a8331b8f6a0c6f08dd7c3784defcbd176e0062052fbb2c1b189f3f37ed3c3f1231a5342e5747c6b4c4d1bbc6734ecaa40b167e2f722d991c5360acc482914edba0cb57910fca6b7598311c1bb87e17d03a7610243f0db0c9fefa0ac6618479e6aaef10d8baebfdc7b86894a074d9fb503ad655495ca37723a9816aee37f42469bbcb65204a735f4e20a457cdd4bec4911e5e5ec2a10c3d10b2b9928bf0dfdcec9530ce7726d47299da7d321d4bc5a7d5417ec9002244', 1, 2, '', 1, '7042852644682d7e', '2026-11-27 08:49:23.374744+00', '2026-11-27 08:49:29.706552+00');
INSERT INTO pipesync.pipelines (id, config, sealed_config, desired_status, status, status_message, sync_policy, etag, create_time, update_time) VALUES ('paused', '{"source": {"type": "stripe", "config": {"api_key": "********", "base_url": "http://127.0.0.1:41623"}}, "destination": {"type": "postgres", "config": {"url": "********"}}, "streams": [{"name": "customers"}]}', '\x630dcd29ed97a9c152cd003a8711da45521b57122e68dc87554b4c104bc74aeb666c178b4a4a93ad36679a5e83aeffc367eb478b7a0e5fb724f1156ce945324d81127af1b755900ba38baaccbcb112ecc90a0fa8050edc99b0432ad7d66d27d5e5b264fcb818ea21044b7c6f025e0f6b13f4a4fa384bc94f6fdd6fdd1636e22a6fe81f5f40e7f2e29da819456e32de8640be2907c7f7fa47fdfce75483ff466d6604663b0433ff5e0c35c01a783b71eca7e6c22ba09c94256fc9e4f44bcea88c3e156aa840ac87b951e0bcf38a7db9105ad91736252555d38748b5c43a3f0026e5d046e78ecf5f2f3f8d05ba73a2dfde9688302fd400e2e68d13e9819a566e24b439ebda47ac0f16b7bb74ff23f9f684a7b8c7d2', 2, 6, 'http://127.0.0.1:41623 answered 401 to GET /v1/account: Invalid API Key provided: sk_test_********************ture; request_id: req_simulator000013', 1, 'a1619e0b662179c8', '2026-11-27 08:49:36.377656+00', '2026-11-27 08:49:46.006708+00');

INSERT INTO pipesync.runs (pipeline_id, run_id, status, start_time, end_time, progress, failure_message) VALUES ('finished', 'whole', 2, '2026-11-27 08:49:17.28711+00', '2026-11-27 08:49:17.672371+00', '\x0a0c088d88a5d80610e9e7b2f801107a2a1c080211c4b535af09af7e4019ad1c947f5a5d2040203c28013202083c322a0a0870726f6475637473121e08031001183c2a081206088e88a5d80632081206088e88a5d8063a02083c', '');
INSERT INTO pipesync.runs (pipeline_id, run_id, status, start_time, end_time, progress, failure_message) VALUES ('half-done', 'cut-short', 1, '2026-11-27 08:49:33.656303+00', NULL, '\x0a0c089d88a5d80610c1d494db02104a2a20080111c284581ddde1b24019740cfb12d4da4a4020e8022804320508ac02183c322a0a0870726f6475637473121e08031001183c2a081206089e88a5d80632081206089e88a5d8063a02183c32230a09637573746f6d65727312160802100318ac022a081206089e88a5d8063a0308ac02', '');
INSERT INTO pipesync.runs (pipeline_id, run_id, status, start_time, end_time, progress, failure_message) VALUES ('paused', 'refused', 3, '2026-11-27 08:49:41.205443+00', '2026-11-27 08:49:41.470086+00', '\x2298010802129301687474703a2f2f3132372e302e302e313a343136323320616e7377657265642034303120746f20474554202f76312f6163636f756e743a20496e76616c696420415049204b65792070726f76696465643a20736b5f746573745f2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a747572653b20726571756573745f69643a207265715f73696d756c61746f723030303031332a020803320f0a09637573746f6d65727312020801', 'http://127.0.0.1:41623 answered 401 to GET /v1/account: Invalid API Key provided: sk_test_********************ture; request_id: req_simulator000013');

INSERT INTO pipesync.states (pipeline_id, sync_state, update_time) VALUES ('finished', '\x0a6d0a6b0a0870726f6475637473125f7b226163636f756e7465645f72616e6765223a7b226c74223a313739353736393335387d2c2272656d61696e696e67223a5b5d2c227265636f72645f636f756e74223a36302c226261636b66696c6c5f6c74223a313739353736393335387d1a6d0a0577686f6c651206088e88a5d8061a5a0a0c088d88a5d80610e9e7b2f801107a2a1c080211c4b535af09af7e4019ad1c947f5a5d2040203c28013202083c322a0a0870726f6475637473121e08031001183c2a081206088e88a5d80632081206088e88a5d8063a02083c2001', '2026-11-27 08:49:17.67291+00');
INSERT INTO pipesync.states (pipeline_id, sync_state, update_time) VALUES ('half-done', '\x0a85030a6b0a0870726f6475637473125f7b226163636f756e7465645f72616e6765223a7b226c74223a313739353736393337347d2c2272656d61696e696e67223a5b5d2c227265636f72645f636f756e74223a36302c226261636b66696c6c5f6c74223a313739353736393337347d0a95020a09637573746f6d6572731287027b226163636f756e7465645f72616e6765223a7b226c74223a313739353736393337347d2c2272656d61696e696e67223a5b7b22677465223a313731333132363835362c226c74223a313739353736393337342c22637572736f72223a226375735f666139323934313562663565333031333435393265613336227d2c7b22677465223a313637373036313032382c226c74223a313731333132363835362c22637572736f72223a226375735f343838396333363339326438363430633038306434346332227d2c7b226c74223a313637373036313032387d5d2c227265636f72645f636f756e74223a3330302c226261636b66696c6c5f6c74223a313739353736393337347d1a99010a096375742d73686f72741206089e88a5d8061a83010a0c089d88a5d80610c1d494db02104a2a20080111c284581ddde1b24019740cfb12d4da4a4020e8022804320508ac02183c322a0a0870726f6475637473121e08031001183c2a081206089e88a5d80632081206089e88a5d8063a02183c32230a09637573746f6d65727312160802100318ac022a081206089e88a5d8063a0308ac02', '2026-11-27 08:49:33.806493+00');
INSERT INTO pipesync.states (pipeline_id, sync_state, update_time) VALUES ('paused', '\x1ac4010a0772656675736564120608a688a5d8061ab0012298010802129301687474703a2f2f3132372e302e302e313a343136323320616e7377657265642034303120746f20474554202f76312f6163636f756e743a20496e76616c696420415049204b65792070726f76696465643a20736b5f746573745f2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a747572653b20726571756573745f69643a207265715f73696d756c61746f723030303031332a020803320f0a09637573746f6d65727312020801', '2026-11-27 08:49:41.478756+00');

SELECT pg_catalog.setval('pipesync.fencing_tokens', 4, true);

ALTER TABLE ONLY pipesync.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (pipeline_id);

ALTER TABLE ONLY pipesync.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY pipesync.pipelines
    ADD CONSTRAINT pipelines_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pipesync.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (pipeline_id, run_id);

ALTER TABLE ONLY pipesync.states
    ADD CONSTRAINT states_pkey PRIMARY KEY (pipeline_id);

CREATE INDEX runs_newest_first ON pipesync.runs USING btree (pipeline_id, start_time DESC, run_id DESC);

ALTER TABLE ONLY pipesync.leases
    ADD CONSTRAINT leases_pipeline_id_fkey FOREIGN KEY (pipeline_id) REFERENCES pipesync.pipelines(id) ON DELETE CASCADE;

ALTER TABLE ONLY pipesync.runs
    ADD CONSTRAINT runs_pipeline_id_fkey FOREIGN KEY (pipeline_id) REFERENCES pipesync.pipelines(id) ON DELETE CASCADE;

ALTER TABLE ONLY pipesync.states
    ADD CONSTRAINT states_pipeline_id_fkey FOREIGN KEY (pipeline_id) REFERENCES pipesync.pipelines(id) ON DELETE CASCADE;
