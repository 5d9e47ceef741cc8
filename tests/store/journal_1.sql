-- A journal of schema 1: five trials, as the first version of frugalbo wrote them.
CREATE TABLE frugalbo_runs (
	number INTEGER NOT NULL,
	id TEXT NOT NULL,
	name TEXT NOT NULL,
	created_at DOUBLE NOT NULL,
	spec TEXT NOT NULL,
	PRIMARY KEY (number),
	UNIQUE (id)
);
INSERT INTO frugalbo_runs VALUES(1,'parabola-1','parabola',1.79541306561623716358e+09,'{"problem":{"name":"parabola","space":{"parameters":{"x":{"kind":"float","lower":0.0,"upper":1.0,"log":false,"only_if":null}},"constraints":[]},"job":"{root}/parabola.py:train","objective":{"metric":"loss","minimize":true},"fidelity":null,"defaults":null,"description":"","root":"{root}"},"budget":{"evaluations":5.0},"seed":0,"settings":{"method":"random","devices":"cpu:1","dollars_per_hour":0.0,"trial_cap_s":null}}');
CREATE TABLE frugalbo_events (
	run INTEGER NOT NULL,
	sequence INTEGER NOT NULL,
	body TEXT NOT NULL,
	PRIMARY KEY (run, sequence),
	FOREIGN KEY(run) REFERENCES frugalbo_runs (number)
) WITHOUT ROWID;
INSERT INTO frugalbo_events VALUES(1,1,'{"kind":"started","trial":0,"segment":0,"params":{"x":0.6369616873214543},"start":0,"until":1,"planned":1,"held":{"evaluations":1.0},"slot":"cpu:0","at":1795413067.547455,"why":{"method":"random"}}');
INSERT INTO frugalbo_events VALUES(1,2,'{"kind":"reported","trial":0,"segment":0,"step":1,"metrics":{"loss":0.11354317872252155},"at":1795413067.6844642}');
INSERT INTO frugalbo_events VALUES(1,3,'{"kind":"ended","trial":0,"segment":0,"outcome":"completed","used":{"device_seconds":0.20774939500552136,"evaluations":1.0,"memory_bytes":157958144.0},"at":1795413067.7727268,"checkpoint":0,"failure":null,"message":"","log_tail":""}');
INSERT INTO frugalbo_events VALUES(1,4,'{"kind":"started","trial":1,"segment":0,"params":{"x":0.8897387912781343},"start":0,"until":1,"planned":1,"held":{"evaluations":1.0},"slot":"cpu:0","at":1795413067.8687966,"why":{"method":"random"}}');
INSERT INTO frugalbo_events VALUES(1,5,'{"kind":"reported","trial":1,"segment":0,"step":1,"metrics":{"loss":0.34779184193819473},"at":1795413067.902784}');
INSERT INTO frugalbo_events VALUES(1,6,'{"kind":"ended","trial":1,"segment":0,"outcome":"completed","used":{"device_seconds":0.037167119000514504,"evaluations":1.0,"memory_bytes":157958144.0},"at":1795413067.9172714,"checkpoint":0,"failure":null,"message":"","log_tail":""}');
INSERT INTO frugalbo_events VALUES(1,7,'{"kind":"started","trial":2,"segment":0,"params":{"x":0.08082403917318748},"start":0,"until":1,"planned":1,"held":{"evaluations":1.0},"slot":"cpu:0","at":1795413067.9572048,"why":{"method":"random"}}');
INSERT INTO frugalbo_events VALUES(1,8,'{"kind":"reported","trial":2,"segment":0,"step":1,"metrics":{"loss":0.04803810180435645},"at":1795413068.0082479}');
INSERT INTO frugalbo_events VALUES(1,9,'{"kind":"ended","trial":2,"segment":0,"outcome":"completed","used":{"device_seconds":0.05502608099777717,"evaluations":1.0,"memory_bytes":157958144.0},"at":1795413068.0227048,"checkpoint":0,"failure":null,"message":"","log_tail":""}');
INSERT INTO frugalbo_events VALUES(1,10,'{"kind":"started","trial":3,"segment":0,"params":{"x":0.8949727407898387},"start":0,"until":1,"planned":1,"held":{"evaluations":1.0},"slot":"cpu:0","at":1795413068.0607822,"why":{"method":"random"}}');
INSERT INTO frugalbo_events VALUES(1,11,'{"kind":"reported","trial":3,"segment":0,"step":1,"metrics":{"loss":0.35399256228297254},"at":1795413068.1402485}');
INSERT INTO frugalbo_events VALUES(1,12,'{"kind":"ended","trial":3,"segment":0,"outcome":"completed","used":{"device_seconds":0.07969576599862194,"evaluations":1.0},"at":1795413068.1593637,"checkpoint":0,"failure":null,"message":"","log_tail":""}');
INSERT INTO frugalbo_events VALUES(1,13,'{"kind":"started","trial":4,"segment":0,"params":{"x":0.8830719356077292},"start":0,"until":1,"planned":1,"held":{"evaluations":1.0},"slot":"cpu:0","at":1795413068.1920314,"why":{"method":"random"}}');
INSERT INTO frugalbo_events VALUES(1,14,'{"kind":"reported","trial":4,"segment":0,"step":1,"metrics":{"loss":0.33997288209334386},"at":1795413068.2482047}');
INSERT INTO frugalbo_events VALUES(1,15,'{"kind":"ended","trial":4,"segment":0,"outcome":"completed","used":{"device_seconds":0.07068455599801382,"evaluations":1.0},"at":1795413068.2663403,"checkpoint":0,"failure":null,"message":"","log_tail":""}');
CREATE TABLE frugalbo_schema (
	version INTEGER NOT NULL
);
INSERT INTO frugalbo_schema VALUES(1);
CREATE TABLE frugalbo_sessions (
	number INTEGER NOT NULL,
	run INTEGER NOT NULL,
	host TEXT NOT NULL,
	pid INTEGER NOT NULL,
	process TEXT NOT NULL,
	ttl_s DOUBLE NOT NULL,
	acquired_at DOUBLE NOT NULL,
	renewed_at DOUBLE NOT NULL,
	released_at DOUBLE,
	seconds DOUBLE NOT NULL,
	PRIMARY KEY (number),
	FOREIGN KEY(run) REFERENCES frugalbo_runs (number)
);
INSERT INTO frugalbo_sessions VALUES(1,1,'elsewhere',14993,'5251930',15.0,1.79541306562563681599e+09,1.79541306830973029133e+09,1.79541306830953526496e+09,2.67966730299667688086e+00);
CREATE INDEX ix_frugalbo_sessions_run ON frugalbo_sessions (run);
