"""Small trainings of a few steps: of each kind a recipe, and what makes it small."""

ALL = [
    *("trainer.accelerator=gpux", "trainer.strategy=gpux", "trainer.enable_progress_bar=False"),
    *("trainer.limit_train_batches=4", "trainer.max_epochs=1", "trainer.max_steps=-1", "trainer.log_every_n_steps=100"),
    *("trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=null", "stages=[]"),
]
TWO_STEPS = [  # of few samples, as all that is asked is where each tensor stands
    *("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"),
    *("data.batch_size=2", "data.eval_batch_size=4"),
]
DIGITS = ["data=digits", "data.batch_size=32", "data.eval_batch_size=360", "data.val_size=40"]
PLAIN = ["data.augment.rotate=0", "data.augment.translate=0"]
MESHED = ["data.train_size=200", "data.val_size=50", "data.test_size=100", "data.batch_size=32"]
PUZZLES = ["data.train_size=200", "data.val_size=20", "data.test_size=40", "data.batch_size=20"]
MAZES = [*PUZZLES, "data.sides=[7]", "data.test_side=9", "data.other_sides=[]"]

STAYS = ["data.verify=false", "data.batch_size=10", "data.sets=[a]", "model.width=4"]  # and data.root

SMALL = {
    "deq_classifier": ["model=deq_digits", *DIGITS, "model.widths=[8]", "model.solver_options.max_steps=5"],
    "contractive_classifier": [
        "model=deq_cifar_small",
        *DIGITS,
        "model.widths=[8,8]",
        "data.augment.alternating_flip=true",
    ],
    "mdeq_classifier": [
        *("model=mdeq_cifar_small", *DIGITS, *PLAIN, "data.augment.crop=1", "data.augment.flip=true"),
        *("model.expansion=2", "model.groups=2", "model.final_width=8", "model.solver_options.max_steps=4"),
        *("model.widths=[4,4]", "model.head_widths=[2,3]"),
    ],
    "mondeq_classifier": ["model=mondeq_mnist", *DIGITS, "model.grid=2", "model.widths=[4]"],
    "conv_classifier": ["model=conv_mnist", *DIGITS, "model.grid=2", "model.width=4"],
    "residual_classifier": ["model=residual_cifar", *DIGITS, "model.widths=[8,16]", "model.stem=8"],
    "implicit_graph": [
        "model=ign_chains",
        "data.length=12",
        "data.chains_per_class=5",
        "data.features=5",
        "data.val_size=20",
    ],
    "graph_convolution": [
        "model=gcn_chains",
        "data.length=12",
        "data.chains_per_class=5",
        "data.features=5",
        "data.val_size=20",
    ],
    "language_model": [
        *("model=deq_lm_shakespeare_unbounded", "data=text_file", "data.length=16", "data.context=8"),
        *("data.batch_size=16", "model.width=8", "model.heads=2", "model.ema_decay=0.5", "model.train_max_steps=7"),
    ],
    "ode_classifier": ["model=node_mnist", *DIGITS, "model.width=4", "model.groups=2"],
    "ode_point_classifier": ["model=anode_spheres", *MESHED, "model.hidden=8", "model.jacobian_penalty=0.1"],
    "latent_ode": ["model=latent_ode_spiral", "data.batch_size=300", "data.repeats=4"],
    "node_pendulum": ["model=node_pendulum", "data.repeats=4"],
    "pinn_pendulum": ["model=pinn_pendulum", "data.repeats=4"],
    "neural_cde": ["model=ncde_vowels", "data.repeats=1", "data.batch_size=45", "model.hidden=4", "model.width=6"],
    "gru_d": ["model=grud_vowels", "data.repeats=1", "data.batch_size=45", "model.width=5"],
    "latent_ode_stays": ["model=latent_ode_physionet", *STAYS, "model.latent=3", "model.hidden=5"],
    "latent_ode_interpolation": ["model=latent_ode_physionet_interpolation", *STAYS, "model.latent=3"],
    "gru_d_stays": ["model=gru_physionet", *STAYS],
    "hamiltonian": ["model=hnn_two_body", "data.repeats=1", "model.hidden=8", "model.periods=1"],
    "node_orbits": ["model=node_two_body", "data.repeats=1", "model.hidden=8", "model.periods=1"],
    "flow": ["model=cnf_8gaussians", *MESHED, "model.hidden=[8]"],
    "flow by matching": ["model=cnf_moons_fm", *MESHED, "model.hidden=[8]"],
    "image_flow": [
        "model=cnf_digits",
        "data.batch_size=32",
        "data.val_size=40",
        "model.hidden=[8]",
        "model.eval_divergence=rademacher",
    ],
    "meta_regression": [
        *("model=imaml_sinusoid", "model.hidden=[8]", "data.batch_size=4", "data.train_size=16", "data.val_size=8"),
        *("data.test_size=10", "data.eval_batch_size=4", "model.solver_options.max_steps=6"),
        "model.linear_solver_options.max_steps=4",
    ],
    "few_shot": [
        *(
            "model=imaml_omniglot_5w1s",
            "model.width=4",
            "data.batch_size=2",
            "data.eval_batch_size=3",
            "data.queries=2",
        ),
        *("data.train_queries=3", "data.train_episodes=8", "data.val_episodes=2", "data.test_episodes=5"),
        *("model.solver_options.max_steps=5", "model.linear_solver_options.max_steps=3"),
    ],
    "deblur": ["model=deq_deblur", *DIGITS, *PLAIN, "model.blur_size=5", "model.width=8"],
    "implicit_pictures": ["model=deq_inr", "data.side=8", "data.batch_size=16", "model.widths=[4,8]"],
    "siren_pictures": ["model=siren", "data.side=8", "data.batch_size=16", "model.widths=[4,8]"],
    "sudoku_equilibrium": ["model=deq_sudoku4", "model.width=4", "model.hidden=8", "model.lead_from=0", *PUZZLES],
    # Values go round in a maze: this discount lets a solve be as long as that of the 14 waits in test_trainings.py.
    "maze_planner": ["model=deq_maze", "model.actions=2", "model.hidden=8", "model.discount=0.8", *MAZES],
    "maze_layers": ["model=layers_maze", "model.width=4", "model.depth=4", *MAZES],
    "sudoku_program": ["model=optnet_sudoku4", *PUZZLES],
    "sudoku_conv": ["model=conv_sudoku4", "model.width=8", *PUZZLES],
    "cell_search": [
        *("model=darts_digits", "model.channels=2", "data.train_size=60", "data.val_size=40", "data.repeats=4"),
        "model.solver_options.max_steps=20",
    ],
    "learned_decay": [
        *("model=hyper_mnist", "model.filters=3", "data=few_mnist", "data.name=few_digits", "data.train_size=60"),
        *("data.val_size=40", "data.repeats=4", "model.solver_options.max_steps=20"),
    ],
    "data_cleaning": [
        *("model=data_cleaning_mnist", "data=noisy_mnist", "data.name=noisy_digits", "data.train_size=60"),
        *("data.val_size=40", "data.repeats=4", "model.solver_options.max_steps=20"),
    ],
}

# What is drawn and checked beside a training, in little.
SMALL_PICTURES = {
    "deqzoo.plots.budget.STEPS": (1, 3),
    "deqzoo.models.equilibrium.kind.DRAWN": 50,
    "deqzoo.models.ode.classifier_kind.FRAMES": 2,
    "deqzoo.models.ode.latent_ode_kind.FRAMES": 2,
    "deqzoo.models.meta.data_cleaning_kind.STRENGTHS": (0.1,),
    "deqzoo.models.meta.learned_decay_kind.GRID": (0.1,),
    "deqzoo.models.flow.kind.GRID": 20,
    "deqzoo.models.flow.kind.FRAMES": 2,
    "deqzoo.models.flow.image_check.COMPONENTS": (2,),
    "deqzoo.models.flow.image_check.VARIANCES": (0.1,),
    "deqzoo.models.flow.image_check.PASSES": 1,
    "deqzoo.models.language.check.SAMPLE": {"length": 3, "temperature": 0.8, "seed": 0},
}
